"""Histories of users in the online store: the feed adds exposures and outcomes as they happen, a batch job adds a log.

    history = open_history("runs/latest/features", spec)
    history.change({"u1": [history.exposure(decision_record), history.outcome(outcome_record)]})

A user's history is one packed value (`mtorl.window.packed`) of Feast's view `user_history`. An operation reads it,
changes it here, and stores it; if another writer was faster, it starts again. So operations are atomic, and

- idempotent: a decision, and each of its outcomes, counts once. Touchpoints are identified by user and time
- independent of order: a late touchpoint is inserted in its place, unless a full history has only younger ones
- bounded: the newest `spec.window` touchpoints stay, and as many newest decisions without an outcome
- merged with a log: a touchpoint that only one of both has stays, and so does an outcome
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
"""How long a note of the feed stays: how late an outcome may be to find its user, and how early."""
_BATCH = 500  # users whose histories are changed at a time
_DIGEST = 8  # characters of a digest of an id

Record = Mapping[str, Any]
"""A record of the decision log (`mtorl.log.records`)."""
Change = Callable[[UserHistory], bool]
"""Changes a history in place, and returns whether it did; called again if another writer was faster."""


class HistoryError(InputError, ValueError):
    """A history can't be written; the message says why and what to do."""


class History:
    """The histories of all users in a `Store` of `sqlite_store.py` or `redis_store.py`.

    A `HistoryError` says that a value does not fit the data set.
    """

    def __init__(self, spec: DatasetSpec, store: Any) -> None:
        self._spec, self.store = spec, store
        self._unknown = outcome_columns(spec)
        self._columns: dict[str, float | str] = {  # the value of a touchpoint where none is known
            name: self._unknown.get(name, math.nan) if kind == "float64" else ""
            for name, kind in history_types(spec).items()
        } | {DECISION: "", EVENTS: ""}

    def merge(self, batches: Iterable[pa.RecordBatch]) -> int:
        """Merge rows of a log, user_id and the columns of `history_types`, by user and time; returns the changed users.

        For a touchpoint that both have, the log decides, except for an outcome that is 0 or null there, since the log
        may not know it yet.
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
        """Make all changes of each user in one step; returns the users whose history has changed."""
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
        """A change that inserts the touchpoint of a decision, which counts once an outcome is added."""
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
            # The log had it first; or it is another touchpoint at the same time, and stays.
            ours = not history[DECISION][place] and history["hist_channel"][place] == values["hist_channel"]
            if ours:
                history[DECISION][place], history[EVENTS][place] = values[DECISION], LOGGED
            return ours

        return change

    def outcome(self, outcome: Record, missed: set[str] | None = None) -> Change:
        """A change that adds an outcome to the touchpoint of its decision, once; several of a kind add up.

        If the log has given a value of this kind already, the log's stays. A cancellation removes a touchpoint that has
        no outcome. If there is no such touchpoint, the event is added to `missed`.
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
                    # An event is known with its first report, an amount is the sum that is known with the last.
                    column[place] = known if math.isnan(column[place]) else first_or_last(known, column[place])
            _trim(history, self._spec.window)
            return True

        return _of_decision(outcome["decision_id"], change, outcome["event_id"], missed)

    def cancellation(self, decision: str, event: str = "", missed: set[str] | None = None) -> Change:
        """A change that removes the touchpoint of a decision, if it has no outcome."""

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
        with contextlib.suppress(WindowError):  # of another release, say: it is replaced
            stored = unpack(value) if value else {}
        length = len(stored.get("hist_timestamp", ()))
        # A column that the data set did not have before is unknown for the stored touchpoints.
        return {name: stored.get(name) or [null] * length for name, null in self._columns.items()}

    def _merging(self, logged: Sequence[Mapping[str, Any]]) -> Change:
        def change(history: UserHistory) -> bool:
            by_time = {t: {n: history[n][i] for n in history} for i, t in enumerate(history["hist_timestamp"])}
            for row in logged:
                new, old = {**self._columns, **row}, by_time.get(row["hist_timestamp"], {})
                if old.get("hist_channel") == new["hist_channel"]:  # else it is another touchpoint
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
    """A change of the touchpoint of a decision; if there is none, the event is missed."""
    digest = _digest(decision)

    def of_history(history: UserHistory) -> bool:
        if digest in history[DECISION]:
            return change(history, history[DECISION].index(digest))
        if missed is not None:
            missed.add(event)
        return False

    return of_history


def _trim(history: UserHistory, n: int) -> None:
    """Keep the newest n touchpoints, and the newest n decisions that have no outcome yet."""
    length = len(history["hist_timestamp"])
    waiting = [bool(decision) and not heard for decision, heard in zip(history[DECISION], history[EVENTS], strict=True)]
    kept = {kind: [i for i in range(length) if waiting[i] is kind][-n:] for kind in (False, True)}
    places = sorted(kept[False] + kept[True])
    if len(places) < length:
        for values in history.values():
            values[:] = [values[i] for i in places]


def _digest(text: str) -> str:
    """Tells the ids of one user's touchpoints, and of one touchpoint's outcomes, from each other."""
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST // 2).hexdigest()


def _stored_time(text: str) -> float:
    """Microseconds since 1970."""
    return float(microseconds(datetime.fromisoformat(text)))


def _context(column: Column, value: Any) -> float | str:
    """A value as a history stores it: null is NaN among numbers, and "" among texts."""
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
