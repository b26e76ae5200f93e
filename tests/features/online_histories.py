"""Histories of users in SQLite and in Redis, and the plain list that both must be equal to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import FeatureStore
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from features.online.history import History, Touchpoint
from features.online.open_history import open_history
from mtorl.log.dataset import OUTCOMES, Column, DatasetSpec, RewardSpec
from mtorl.window.packed import served, unpack
from mtorl.window.window import HISTORY, PACKED

SPEC = DatasetSpec(
    name="toy",
    description="Short journeys",
    adapter="touchpoints",
    channels=("search", "social", "video", "display " * 20 + "ads"),
    context=(
        Column(name="hour", kind="numeric", missing="unknown"),
        Column(name="rank", kind="numeric", missing="zero"),
        Column(name="order", kind="categorical", missing="unknown"),
        Column(name="device", kind="categorical"),
    ),
    static=(),
    segment=None,
    reward=RewardSpec(gain="click"),
    propensity="logged",
    currency="EUR",
    window=4,
    timed=("conversion",),
)
EPOCH, START = datetime(1970, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 12, tzinfo=UTC)

Lists = dict[str, list[Any]]


@dataclass
class OnlineStore:
    """One of the stores."""

    kind: str
    repo: Path
    store: FeatureStore
    port: int
    history: History = field(init=False)

    def __post_init__(self) -> None:
        self.history = open_history(self.repo, SPEC)

    def read(self, user: str) -> Lists | None:
        """As any reader of Feast gets it."""
        value = self.packed(user)
        return None if value is None else served(unpack(value))

    def packed(self, user: str) -> bytes | None:
        features = [f"{HISTORY}:{PACKED}"]
        found = self.store.get_online_features(features=features, entity_rows=[{"user_id": user}]).to_dict()
        (value,) = found[PACKED]
        return value

    def event_time(self, user: str) -> datetime | None:
        """The view's event time; SQLite keeps whole seconds."""
        online = get_online_store_from_config(self.store.config.online_store)
        key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user)])
        ((found, _),) = online.online_read(self.store.config, self.store.get_feature_view(HISTORY), [key])
        return found

    def store_value(self, user: str, value: bytes) -> None:
        """Any bytes in place of a history."""
        row = {"user_id": user, "event_timestamp": START, "created_timestamp": START, PACKED: value}
        self.store.write_to_online_store(HISTORY, pd.DataFrame([row]))


def touchpoint(
    second: float, channel: str = "search", outcomes: dict[str, float] | None = None, **context: Any
) -> Touchpoint:
    context = {"hour": 9.0, "rank": 1.0, "order": "a", "device": "phone", **context}
    at = START + timedelta(seconds=second)
    known = {"conversion": at + timedelta(hours=1)} if (outcomes or {}).get("conversion") else {}
    return Touchpoint(at, channel, context, outcomes or {}, known)


def seconds_after_start(lists: Lists | None) -> list[float]:
    return [t / 1e6 - START.timestamp() for t in (lists or {}).get("hist_timestamp", [])]


class PlainHistory:
    """A list of touchpoints, kept sorted."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.touchpoints: list[Touchpoint] = []

    def append(self, new: Touchpoint) -> bool:
        if new.timestamp in [t.timestamp for t in self.touchpoints]:
            return False
        self.touchpoints = sorted([*self.touchpoints, new], key=lambda t: t.timestamp)[-self.n :]
        return new in self.touchpoints

    def patch(self, timestamp: datetime, outcomes: dict[str, float], known: dict[str, datetime]) -> bool:
        for i, here in enumerate(self.touchpoints):
            if here.timestamp == timestamp:
                news = {name: when for name, when in known.items() if outcomes.get(name)}
                self.touchpoints[i] = replace(
                    here, outcomes={**here.outcomes, **outcomes}, known={**here.known, **news}
                )
                return True
        return False

    def merge(self, told: list[Touchpoint]) -> None:
        touchpoints = {t.timestamp: t for t in self.touchpoints}
        for new in told:
            here = touchpoints.get(new.timestamp)
            outcomes = {name: new.outcomes.get(name, 0.0) for name in OUTCOMES}
            if here and here.channel == new.channel:  # else it is another touchpoint
                unknown = [name for name, value in outcomes.items() if value in (0, None)]
                outcomes |= {name: here.outcomes.get(name, 0.0) for name in unknown}
                new = replace(new, known={**here.known, **new.known})
            touchpoints[new.timestamp] = replace(new, outcomes=outcomes)
        self.touchpoints = sorted(touchpoints.values(), key=lambda t: t.timestamp)[-self.n :]

    def rows(self, *users: str) -> list[pa.RecordBatch]:
        """As a batch job brings it: some rows at a time, of each user."""
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
