"""Histories of users in the online store. The feed adds single events to them, and a batch job adds a whole log.

    history = open_history("runs/latest/features", spec)
    history.change({"u1": [history.exposure(decision_record), history.outcome(outcome_record)]})

A user's history is one packed value (`mtorl.window.packed`) in Feast's view `user_history`. A change reads this value,
changes it in memory, and stores it only if no other writer has changed it in the meantime. Otherwise the change is
repeated with the new value. So changes are atomic. They are also

- idempotent: each decision and each outcome counts once; a touchpoint is identified by its user and time
- independent of order: a late touchpoint is inserted at its place in time, unless the history is full and all others
  are younger
- limited in size: a history keeps the newest `spec.window` touchpoints, and as many of the newest decisions without an
  outcome
- merged with a log: touchpoints and outcomes that only the log or only the history contains are kept
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Self

from mtorl.log.columns import WindowError
from mtorl.log.dataset import EVENTS as YES_OR_NO
from mtorl.log.dataset import Column, DatasetSpec
from mtorl.log.records import CANCEL
from mtorl.log.times import microseconds
from mtorl.runtime.errors import InputError
from mtorl.window.packed import DECISION, EVENTS, LOGGED, UserHistory, pack, unpack
from mtorl.window.window import history_types, outcome_columns

if TYPE_CHECKING:
    import pyarrow as pa

NOTED_SECONDS = 86_400
"""Seconds after which the feed's notes expire. With the notes, the feed finds the user of an outcome that arrives late,
or before its decision."""
# Number of histories to change at a time.
_BATCH = 500
# Number of characters in the digest of an id.
_DIGEST = 8

Record = Mapping[str, Any]
"""A record of the decision log (`mtorl.log.records`)."""
Change = Callable[[UserHistory], bool]
"""Type of a function that changes a history in place, and returns true if it has changed it. The function is called
again, with the new history, if another writer has stored a change in the meantime."""


class HistoryError(InputError, ValueError):
    """Raised if a history can't be opened or written, or if an event does not fit the data set."""


class History:
    """The histories of all users, in a `Store` of `sqlite_store.py` or `redis_store.py`."""

    def __init__(self, spec: DatasetSpec, store: Any) -> None:
        self._spec, self.store = spec, store
        self._unknown = outcome_columns(spec)
        self._columns: dict[str, float | str] = {  # default value of each column
            name: self._unknown.get(name, math.nan) if kind == "float64" else ""
            for name, kind in history_types(spec).items()
        } | {DECISION: "", EVENTS: ""}

    def merge(self, batches: Iterable[pa.RecordBatch]) -> int:
        """Add the touchpoints of a log to the histories. Returns the number of changed users.

        If a touchpoint is in both, it gets the values of the log, except outcomes that are 0 or null in the log.
        """
        names = ["user_id", *history_types(self._spec)]
        rows = (row for batch in batches for row in zip(*(batch[name].to_pylist() for name in names), strict=True))
        changes = (
            (user, [self._merging([dict(zip(names[1:], row[1:], strict=True)) for row in of_user])])
            for user, of_user in groupby(rows, key=itemgetter(0))
        )
        changed = 0
        while some := dict(islice(changes, _BATCH)):
            changed += len(self.change(some))
        return changed

    def change(self, changes: Mapping[str, Sequence[Change]]) -> set[str]:
        """Apply all changes to each user's history, atomically per user. Returns the users whose history changed."""
        left, changed = dict(changes), set[str]()
        while left:
            rows = []
            for user, value in zip(left, self.store.read(list(left)), strict=True):
                history = self._unpacked(value)
                done = [change(history) for change in left[user]]
                if any(done) and (new := pack(history)) != value:
                    rows.append((user, value, new, max(history["hist_timestamp"], default=0.0)))
            stored = self.store.swap(rows)
            changed |= {user for (user, *_), done in zip(rows, stored, strict=True) if done}
            left = {user: changes[user] for (user, *_), done in zip(rows, stored, strict=True) if not done}
        return changed

    def exposure(self, decision: Record) -> Change:
        """Return a change that inserts a decision's touchpoint, which is ignored until its first outcome arrives."""
        values, n = self._values(decision), self._spec.window

        def change(history: UserHistory) -> bool:
            if values[DECISION] in history[DECISION]:
                return False
            times, at = history["hist_timestamp"], values["hist_timestamp"]
            place = bisect_left(times, at)
            if times[place : place + 1] != [at]:
                for name, column in history.items():
                    column.insert(place, values[name])
                _trim(history, n)
                return True
            # If a log has added this touchpoint, and its channel is the same, it is the touchpoint of this decision.
            ours = not history[DECISION][place] and history["hist_channel"][place] == values["hist_channel"]
            if ours:
                history[DECISION][place], history[EVENTS][place] = values[DECISION], LOGGED
            return ours

        return change

    def outcome(self, outcome: Record, missed: set[str] | None = None) -> Change:
        """Return a change that adds an outcome to the touchpoint of its decision.

        An outcome counts only once. It does not count if a log has provided a value of its kind.

        Args:
            missed: If the history has no such touchpoint, the id of the outcome's event is added to this set.
        """
        if outcome["kind"] == CANCEL:
            return self.cancellation(outcome["decision_id"], outcome["event_id"], missed)
        event, kind, value = _digest(outcome["event_id"]), outcome["kind"], outcome["value"]
        if kind not in self._spec.outcome_kinds:
            raise HistoryError(f"outcomes: unknown {kind}; known: {', '.join(self._spec.outcome_kinds)}")
        if not math.isfinite(value):
            raise HistoryError(f"outcomes: {kind} is {value}; expected a finite number")
        name, time, known = f"hist_{kind}", self._spec.outcome_times.get(kind), _stored_time(outcome["received_time"])

        def change(history: UserHistory, place: int) -> bool:
            heard = history[EVENTS][place]
            logged, own = heard.startswith(LOGGED), heard.removeprefix(LOGGED)
            if event in (own[i : i + _DIGEST] for i in range(0, len(own), _DIGEST)):
                return False
            history[EVENTS][place] = heard + event
            if name in history and not (logged and history[name][place]):
                both = (history[name][place], value)
                history[name][place] = float(any(both)) if kind in YES_OR_NO else sum(both)
                if time and value:
                    column, first_or_last = history[f"hist_{time}"], min if kind in YES_OR_NO else max
                    # A click is known with its first report. An amount is a sum, so it is known with its last part.
                    column[place] = known if math.isnan(column[place]) else first_or_last(known, column[place])
            _trim(history, self._spec.window)
            return True

        return _of_decision(outcome["decision_id"], change, outcome["event_id"], missed)

    def cancellation(self, decision: str, event: str = "", missed: set[str] | None = None) -> Change:
        """Return a change that removes the touchpoint of a decision, unless the touchpoint has an outcome."""

        def change(history: UserHistory, place: int) -> bool:
            if history[EVENTS][place]:
                return False
            for values in history.values():
                del values[place]
            return True

        return _of_decision(decision, change, event, missed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.store.close()

    def _unpacked(self, value: bytes | None) -> UserHistory:
        stored: UserHistory = {}
        # Another version of this package may have written the value. Then start an empty history.
        with contextlib.suppress(WindowError):
            stored = unpack(value) if value else {}
        length = len(stored.get("hist_timestamp", ()))
        # Touchpoints from before a column was added to the data set get the column's default.
        return {name: stored.get(name) or [null] * length for name, null in self._columns.items()}

    def _merging(self, logged: Sequence[Mapping[str, Any]]) -> Change:
        def change(history: UserHistory) -> bool:
            by_time = {t: {n: history[n][i] for n in history} for i, t in enumerate(history["hist_timestamp"])}
            for row in logged:
                new, old = {**self._columns, **row}, by_time.get(row["hist_timestamp"], {})
                # With the same time and channel, both are one touchpoint. Otherwise, the log's touchpoint replaces it.
                if old.get("hist_channel") == new["hist_channel"]:
                    outcomes = {name: new[name] for name in self._unknown if new[name] and new[name] == new[name]}
                    new |= {name: old[name] for name in self._unknown if name not in outcomes}
                    new |= {DECISION: old[DECISION], EVENTS: old[EVENTS]}
                    if old[DECISION] and (outcomes or not old[EVENTS]) and not old[EVENTS].startswith(LOGGED):
                        new[EVENTS] = LOGGED + old[EVENTS]
                by_time[row["hist_timestamp"]] = new
            for name in history:
                history[name][:] = [by_time[time][name] for time in sorted(by_time)]
            _trim(history, self._spec.window)
            return True

        return change

    def _values(self, decision: Record) -> dict[str, float | str]:
        channel, context = decision["channel"], decision["context"]
        if channel not in self._spec.channels:
            raise HistoryError(f"channel: {channel!r} is not one of {', '.join(self._spec.channels)}")
        seen = {f"hist_{column.name}": _context(column, context.get(column.name)) for column in self._spec.context}
        own = {"hist_timestamp": _stored_time(decision["request_time"]), "hist_channel": channel}
        return {**self._columns, **own, **seen, DECISION: _digest(decision["decision_id"])}


def _of_decision(
    decision: str, change: Callable[[UserHistory, int], bool], event: str, missed: set[str] | None
) -> Change:
    """Return a change that applies `change` to the touchpoint of a decision, or adds `event` to `missed`."""
    digest = _digest(decision)

    def of_history(history: UserHistory) -> bool:
        if digest in history[DECISION]:
            return change(history, history[DECISION].index(digest))
        if missed is not None:
            missed.add(event)
        return False

    return of_history


def _trim(history: UserHistory, n: int) -> None:
    """Limit a history to the newest n touchpoints, and the newest n decisions that have no outcome yet."""
    length = len(history["hist_timestamp"])
    waiting = [bool(decision) and not heard for decision, heard in zip(history[DECISION], history[EVENTS], strict=True)]
    kept = {kind: [i for i in range(length) if waiting[i] is kind][-n:] for kind in (False, True)}
    places = sorted(kept[False] + kept[True])
    if len(places) < length:
        for values in history.values():
            values[:] = [values[i] for i in places]


def _digest(text: str) -> str:
    """Return a short digest of an id, which is stored in its place to save memory."""
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST // 2).hexdigest()


def _stored_time(text: str) -> float:
    """Convert an ISO time to microseconds since 1970."""
    return float(microseconds(datetime.fromisoformat(text)))


def _context(column: Column, value: Any) -> float | str:
    """Convert a context value to the form in which histories store it."""
    missing = value is None or value != value
    if missing and column.missing == "error":
        raise HistoryError(f"context: {column.name} is missing")
    if column.kind == "categorical":
        return "" if missing else str(value)
    if missing:
        return 0.0 if column.missing == "zero" else math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise HistoryError(f"context: {column.name} is {value!r}; expected a number") from None
