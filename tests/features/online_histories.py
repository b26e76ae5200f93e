"""Writes users' histories to SQLite or Redis, and to a plain list for comparison."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import FeatureStore
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from features.online.history import Change, History
from features.online.open_history import open_history
from mtorl.log.dataset import OUTCOMES, Column, DatasetSpec
from mtorl.window.packed import served, unpack
from mtorl.window.window import HISTORY, PACKED

SPEC = DatasetSpec(
    name="toy",
    channels=("search", "social", "video", "display " * 20 + "ads"),
    context=(
        Column(name="hour", kind="numeric", missing="unknown"),
        Column(name="rank", kind="numeric", missing="zero"),
        Column(name="order", kind="categorical", missing="unknown"),
        Column(name="device", kind="categorical"),
    ),
    propensity="logged",
    window=4,
    timed=("conversion",),
)
EPOCH, START = datetime(1970, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 12, tzinfo=UTC)

Lists = dict[str, list[Any]]


@dataclass
class OnlineStore:
    kind: str
    repo: Path
    store: FeatureStore
    port: int
    history: History = field(init=False)

    def __post_init__(self) -> None:
        self.history = open_history(self.repo, SPEC)

    def read(self, user: str) -> Lists | None:
        value = self.packed(user)
        return None if value is None else served(unpack(value))

    def packed(self, user: str) -> bytes | None:
        features = [f"{HISTORY}:{PACKED}"]
        found = self.store.get_online_features(features=features, entity_rows=[{"user_id": user}]).to_dict()
        (value,) = found[PACKED]
        return value

    def event_time(self, user: str) -> datetime | None:
        """Return the time of a user's history in Feast; SQLite stores whole seconds."""
        online = get_online_store_from_config(self.store.config.online_store)
        key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user)])
        ((found, _),) = online.online_read(self.store.config, self.store.get_feature_view(HISTORY), [key])
        return found

    def store_value(self, user: str, value: bytes) -> None:
        row = {"user_id": user, "timestamp": START, "created_timestamp": START, PACKED: value}
        self.store.write_to_online_store(HISTORY, pd.DataFrame([row]))


@dataclass(frozen=True)
class Touchpoint:
    """An exposure with its outcomes. An outcome without a time in `known` became known at once."""

    timestamp: datetime
    channel: str
    context: Mapping[str, Any]
    outcomes: Mapping[str, Any] = field(default_factory=dict)
    known: Mapping[str, datetime] = field(default_factory=dict)

    @property
    def decision(self) -> str:
        return f"{self.timestamp.isoformat()} {self.channel}"

    @property
    def events(self) -> list[dict[str, Any]]:
        """Return the outcomes as in the router's log, with a cost of 0 if there is none."""
        return [self.event(kind, value, self.known.get(kind)) for kind, value in {"cost": 0.0, **self.outcomes}.items()]

    def event(self, kind: str, value: float, known: datetime | None = None, event: str = "") -> dict[str, Any]:
        return {
            **{"event_id": event or f"{self.decision}-{kind}", "decision_id": self.decision},
            **{"kind": kind, "value": value, "received_time": (known or self.timestamp).isoformat()},
        }

    def changes(self, history: History) -> list[Change]:
        shown = {"decision_id": self.decision, "request_time": self.timestamp.isoformat()}
        exposure = history.exposure({**shown, "channel": self.channel, "context": self.context})
        return [exposure, *map(history.outcome, self.events)]


def append(history: History, user: str, seen: Touchpoint) -> bool:
    return bool(history.change({user: seen.changes(history)}))


def hear(history: History, user: str, event: Mapping[str, Any]) -> bool:
    return bool(history.change({user: [history.outcome(event)]}))


def touchpoint(
    second: float, channel: str = "search", outcomes: dict[str, float] | None = None, **context: Any
) -> Touchpoint:
    context = {"hour": 9.0, "rank": 1.0, "order": "a", "device": "phone", **context}
    at = START + timedelta(seconds=second)
    known = {"conversion": at + timedelta(hours=1)} if (outcomes or {}).get("conversion") else {}
    return Touchpoint(at, channel, context, outcomes or {}, known)


def seconds_after_start(lists: Lists | None) -> list[float]:
    return [t / 1e6 - START.timestamp() for t in (lists or {}).get("hist_timestamp", [])]


@dataclass
class Entry:
    seen: Touchpoint
    outcomes: dict[str, Any]
    known: dict[str, datetime]
    decision: str = ""  # empty if the touchpoint comes from a log
    logged: bool = False  # whether a log has also added the outcomes
    events: list[str] = field(default_factory=list)


class PlainHistory:
    def __init__(self, n: int) -> None:
        self.n = n
        self.entries: dict[datetime, Entry] = {}

    @property
    def touchpoints(self) -> list[Touchpoint]:
        return [Touchpoint(e.seen.timestamp, e.seen.channel, e.seen.context, e.outcomes, e.known) for e in self._sorted]

    def append(self, new: Touchpoint) -> bool:
        before = repr(self.entries)
        here = self.entries.get(new.timestamp)
        if here is None:
            self.entries[new.timestamp] = Entry(new, dict.fromkeys(OUTCOMES, 0.0), {}, new.decision)
        elif not here.decision and here.seen.channel == new.channel:
            here.decision, here.logged = new.decision, True
        for event in new.events:
            self._hear(event)
        self._trim()
        return repr(self.entries) != before

    def hear(self, event: Mapping[str, Any]) -> bool:
        before = repr(self.entries)
        self._hear(event)
        return repr(self.entries) != before

    def merge(self, told: list[Touchpoint]) -> None:
        for new in told:
            here = self.entries.get(new.timestamp)
            outcomes = {name: new.outcomes.get(name, 0.0) for name in OUTCOMES}
            merged = Entry(new, outcomes, dict(new.known))
            if here and here.seen.channel == new.channel:  # otherwise a different touchpoint
                unknown = [name for name, value in outcomes.items() if value in (0, None)]
                merged.outcomes |= {name: here.outcomes[name] for name in unknown}
                merged.known = {**here.known, **new.known}
                merged.decision, merged.events = here.decision, here.events
                merged.logged = here.logged or (bool(here.decision) and len(unknown) < len(outcomes))
            self.entries[new.timestamp] = merged
        self._trim()

    def _hear(self, event: Mapping[str, Any]) -> None:
        kind, value = event["kind"], event["value"]
        for here in self.entries.values():
            if here.decision != event["decision_id"] or event["event_id"] in here.events:
                continue
            here.events.append(event["event_id"])
            before = _number(here.outcomes[kind])
            if here.logged and before:
                continue
            both = (before, value)
            here.outcomes[kind] = float(any(both)) if kind in ("click", "conversion") else sum(both)
            if kind in SPEC.timed and value:
                at = datetime.fromisoformat(event["received_time"])
                here.known[kind] = min(at, here.known.get(kind, at))

    @property
    def _sorted(self) -> list[Entry]:
        return [self.entries[at] for at in sorted(self.entries)]

    def _trim(self) -> None:
        self.entries = {entry.seen.timestamp: entry for entry in self._sorted[-self.n :]}

    def rows(self, *users: str) -> list[pa.RecordBatch]:
        lists = self.lists()
        assert lists is not None
        table = pa.concat_tables(
            [pa.table({"user_id": [user] * len(self.touchpoints), **lists}) for user in sorted(users)]
        )
        return table.to_batches(max_chunksize=3)

    def lists(self) -> Lists | None:
        if not self.touchpoints:
            return None
        numeric = {"hour": math.nan, "rank": 0.0}
        return {
            "hist_timestamp": [_micros(t.timestamp) for t in self.touchpoints],
            "hist_channel": [t.channel for t in self.touchpoints],
            **{f"hist_{o}": [_number(t.outcomes.get(o, 0.0)) for t in self.touchpoints] for o in OUTCOMES},
            "hist_conversion_time": [_micros(t.known.get("conversion")) for t in self.touchpoints],
            **{
                f"hist_{name}": [null if t.context[name] is None else t.context[name] for t in self.touchpoints]
                for name, null in numeric.items()
            },
            **{f"hist_{name}": [t.context[name] or "" for t in self.touchpoints] for name in ("order", "device")},
        }


def _micros(when: datetime | None) -> float:
    return math.nan if when is None else float((when - EPOCH) // timedelta(microseconds=1))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def equal_lists(found: Lists | None, expected: Lists | None) -> bool:
    return repr(found and dict(sorted(found.items()))) == repr(expected and dict(sorted(expected.items())))
