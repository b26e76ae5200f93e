"""Histories of users in the online store: touchpoints are appended as they happen, outcomes added as they arrive.

    history = open_history("runs/latest/features", spec)
    history.append("u1", Touchpoint(shown_at, "search", {"hour": 9.0, "device": "phone"}))
    history.patch("u1", shown_at, {"click": 1, "cost": 0.03})

A user's history is one packed value (`mtorl.window.packed`) of Feast's view `user_history`. Every operation reads it,
changes it here, and stores it unless another writer was faster, which makes it read again. So operations are atomic, in
SQLite and in Redis alike, and

- idempotent: a touchpoint is identified by its user and time; the same one again changes nothing, not even an outcome
- independent of order: a late touchpoint is inserted in its place, unless a full history has only younger ones
- bounded: the newest `spec.window` touchpoints stay
- merged with the log that a batch job brings: a touchpoint that only one of both has stays, and so does an outcome
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol, Self

from mtorl.log.columns import WindowError
from mtorl.log.dataset import EVENTS as YES_OR_NO
from mtorl.log.dataset import Column, DatasetSpec
from mtorl.log.records import CANCEL
from mtorl.log.times import microseconds
from mtorl.window.packed import DECISION, EVENTS, LOGGED, UserHistory, pack, unpack
from mtorl.window.window import history_types, outcome_columns

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 500  # users whose histories are changed at a time
_DIGEST = 8  # characters of a digest of an id

Change = Callable[[UserHistory], bool]
"""Changes a history in place, and returns whether it did; called again if another writer was faster."""


class HistoryError(ValueError):
    """A history can't be written; the message says why and what to do."""


@dataclass(frozen=True)
class Touchpoint:
    """One exposure of a user.

    Attributes:
        timestamp: Its time, with a time zone; microseconds count.
        context: Value of each context column; a missing one is null.
        outcomes: Known ones of `spec.outcome_kinds`; 0 until then. A history keeps `spec.window_outcomes`.
        known: Times, with a time zone, since which those of `spec.timed` that are not 0 are known.
    """

    timestamp: datetime
    channel: str
    context: Mapping[str, Any]
    outcomes: Mapping[str, float] = field(default_factory=dict)
    known: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """Something that became known of an exposure; several of one kind add up, but a click is a click."""

    event: str
    kind: str
    value: float
    known: datetime


class Packed(Protocol):
    """The packed histories of an online store, and the notes of the feed there (`features.online.feed`)."""

    def read(self, users: Sequence[str]) -> list[bytes | None]:
        """The value of each user."""

    def swap(self, rows: Sequence[tuple[str, bytes | None, bytes, float]]) -> list[bool]:
        """Store values (user, value as read, new one, newest time in us), each unless the stored one has changed."""

    def note(self, rows: Sequence[tuple[str, str, str, bool]], seconds: float) -> None:
        """Store texts for so many seconds: name, field, text, and whether it replaces another one."""

    def noted(self, places: Sequence[tuple[str, str]]) -> list[str | None]:
        """The text of each name and field."""

    def all_noted(self, names: Sequence[str]) -> list[dict[str, str]]:
        """The fields of each name, with their texts."""

    def memory(self) -> tuple[int, int] | None:
        """Bytes in use and the limit, of the fullest node of a cluster; None: no limit."""

    def close(self) -> None:
        """Close the connection."""


class History:
    """The histories of all users in one online store. A `HistoryError` says that a value does not fit the data set."""

    def __init__(self, spec: DatasetSpec, store: Packed) -> None:
        self._spec = spec
        self.store = store
        self._unknown = outcome_columns(spec)
        # The value of a touchpoint in each column where none is known.
        self._columns: dict[str, float | str] = {
            name: self._unknown.get(name, math.nan) if kind == "float64" else ""
            for name, kind in history_types(spec).items()
        } | {DECISION: "", EVENTS: ""}

    def append(self, user_id: str, touchpoint: Touchpoint) -> bool:
        """Put a touchpoint into the user's history.

        Returns whether it was inserted: not if the history has it already, or is full and has only younger ones.
        """
        values = self._values(touchpoint)
        return bool(self.change({user_id: lambda history: self._insert(history, values)}))

    def patch(
        self,
        user_id: str,
        timestamp: datetime,
        outcomes: Mapping[str, float],
        known: Mapping[str, datetime] | None = None,
    ) -> bool:
        """Replace the named outcomes of the user's touchpoint at exactly this time; returns whether there is one."""
        at, values, found = _stored_time(timestamp), self._outcomes(outcomes, known or {}), False

        def change(history: UserHistory) -> bool:
            nonlocal found
            found = at in history["hist_timestamp"]
            place = history["hist_timestamp"].index(at) if found else 0
            for name, value in values.items() if found else ():
                history[name][place] = value
            return found

        self.change({user_id: change})
        return found

    def merge(self, batches: Iterable[pa.RecordBatch]) -> int:
        """Merge touchpoints of a log: rows of user_id and the columns of `history_types`, by user and time.

        Returns how many histories have changed. The newest `spec.window` of the touchpoints that either has stay. For a
        touchpoint that both have, the log decides, except for an outcome that is 0 or null there, since the log may not
        know it yet. A stored history that can't be read is replaced.
        """
        names = ["user_id", *history_types(self._spec)]
        rows = (row for batch in batches for row in zip(*(batch[name].to_pylist() for name in names), strict=True))
        changes = (
            (user, self._merging(dict(zip(names[1:], zip(*(row[1:] for row in of_user), strict=True), strict=True))))
            for user, of_user in groupby(rows, key=itemgetter(0))
        )
        return sum(len(self.change(dict(some), replace=True)) for some in _batches(changes))

    def change(self, changes: Mapping[str, Change], replace: bool = False) -> set[str]:
        """Change the histories of users, each in one step; returns the users whose history has changed.

        `replace`: A stored history that can't be read counts as none.
        """
        left, changed = dict(changes), set[str]()
        while left:
            rows = []
            for user, value in zip(left, self.store.read(list(left)), strict=True):
                history = self._unpacked(user, value, replace)
                if left[user](history) and (new := pack(history)) != value:
                    rows.append((user, value, new, max(history["hist_timestamp"], default=0.0)))
            stored = self.store.swap(rows)
            changed |= {user for (user, *_), done in zip(rows, stored, strict=True) if done}
            left = {user: changes[user] for (user, *_), done in zip(rows, stored, strict=True) if not done}
        return changed

    def exposure(self, decision: str, touchpoint: Touchpoint) -> Change:
        """A change that inserts the touchpoint of a decision, which counts once an outcome is added."""
        values = self._values(touchpoint) | {DECISION: _digest(decision)}

        def change(history: UserHistory) -> bool:
            times, at = history["hist_timestamp"], values["hist_timestamp"]
            place = times.index(at) if at in times else -1
            of_log = place >= 0 and not history[DECISION][place]
            if of_log and history["hist_channel"][place] == values["hist_channel"]:
                history[DECISION][place], history[EVENTS][place] = values[DECISION], LOGGED
                return True
            return values[DECISION] not in history[DECISION] and self._insert(history, values)

        return change

    def outcome(self, decision: str, outcome: Outcome, missed: set[str] | None = None) -> Change:
        """A change that adds an outcome to the touchpoint of a decision, once, or removes one that was cancelled.

        If the log has given a value of this kind already, the log's stays. If there is no such touchpoint, the event
        is added to `missed`.
        """
        digest, event, kind = _digest(decision), _digest(outcome.event), outcome.kind
        if kind != CANCEL:
            self._outcomes({kind: outcome.value}, {kind: outcome.known})  # raises if it does not fit

        def change(history: UserHistory) -> bool:
            if digest not in history[DECISION]:
                if missed is not None:
                    missed.add(outcome.event)
                return False
            place = history[DECISION].index(digest)
            heard = history[EVENTS][place]
            if kind == CANCEL:
                for values in history.values() if not heard else ():
                    del values[place]
                return not heard
            logged = heard.startswith(LOGGED)
            own = heard.removeprefix(LOGGED)
            if event in (own[i : i + _DIGEST] for i in range(0, len(own), _DIGEST)):
                return False
            history[EVENTS][place] = heard + event
            name = f"hist_{kind}"
            if name not in history or (logged and history[name][place]):
                return True
            before = history[name][place]
            both = (before, outcome.value)
            history[name][place] = float(any(both)) if kind in YES_OR_NO else sum(both)
            if (time := self._spec.outcome_times.get(kind)) and outcome.value:
                known, column = _stored_time(outcome.known), history[f"hist_{time}"]
                # An event is known with its first report, an amount is the sum that is known with the last.
                times = [known, *([] if math.isnan(column[place]) else [column[place]])]
                column[place] = (min if kind in YES_OR_NO else max)(times)
            _trim(history, self._spec.window)
            return True

        return change

    def close(self) -> None:
        """Close the connection to the store."""
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _unpacked(self, user: str, value: bytes | None, replace: bool) -> UserHistory:
        try:
            stored = unpack(value) if value else {}
        except WindowError as error:
            if not replace:
                raise HistoryError(f"{user!r}: {error}") from None
            stored = {}
        length = len(stored.get("hist_timestamp", ()))
        # A column that the data set did not have before is unknown for the stored touchpoints.
        return {name: stored.get(name) or [null] * length for name, null in self._columns.items()}

    def _insert(self, history: UserHistory, values: Mapping[str, float | str]) -> bool:
        times, at = history["hist_timestamp"], values["hist_timestamp"]
        place = bisect_left(times, at)
        if times[place : place + 1] == [at]:
            return False
        for name, column in history.items():
            column.insert(place, values[name])
        _trim(history, self._spec.window)
        return at in history["hist_timestamp"]

    def _merging(self, logged: Mapping[str, Sequence[Any]]) -> Change:
        def change(history: UserHistory) -> bool:
            by_time = {t: {n: history[n][i] for n in history} for i, t in enumerate(history["hist_timestamp"])}
            for i, time in enumerate(logged["hist_timestamp"]):
                new, old = self._columns | {name: logged[name][i] for name in logged}, by_time.get(time, {})
                if old.get("hist_channel") == new["hist_channel"]:  # else it is another touchpoint
                    outcomes = {name: new[name] for name in self._unknown if new[name] and new[name] == new[name]}
                    new |= {name: old[name] for name in self._unknown if name not in outcomes}
                    new |= {DECISION: old[DECISION], EVENTS: old[EVENTS]}
                    if old[DECISION] and (outcomes or not old[EVENTS]) and not old[EVENTS].startswith(LOGGED):
                        new[EVENTS] = LOGGED + old[EVENTS]
                by_time[time] = new
            for name in history:
                history[name][:] = [by_time[time][name] for time in sorted(by_time)]
            _trim(history, self._spec.window)
            return True

        return change

    def _values(self, touchpoint: Touchpoint) -> dict[str, float | str]:
        if touchpoint.channel not in self._spec.channels:
            raise HistoryError(f"channel: {touchpoint.channel!r} is not one of {', '.join(self._spec.channels)}")
        context = {c.name: _context(c, touchpoint.context.get(c.name)) for c in self._spec.context}
        return {
            **self._columns,
            "hist_timestamp": _stored_time(touchpoint.timestamp),
            "hist_channel": touchpoint.channel,
            **self._outcomes(touchpoint.outcomes, touchpoint.known),
            **{f"hist_{name}": value for name, value in context.items()},
        }

    def _outcomes(self, outcomes: Mapping[str, float], known: Mapping[str, datetime]) -> dict[str, float | Any]:
        kinds = self._spec.outcome_kinds
        if unknown := sorted(set(outcomes) - set(kinds)):
            raise HistoryError(f"outcomes: unknown {', '.join(unknown)}; known: {', '.join(kinds)}")
        for name, value in outcomes.items():
            if not math.isfinite(value):
                raise HistoryError(f"outcomes: {name} is {value}; expected a finite number")
        values = {f"hist_{name}": float(outcomes[name]) for name in self._spec.window_outcomes if name in outcomes}
        for name, time in self._spec.outcome_times.items():
            if outcomes.get(name):
                if name not in known:
                    raise HistoryError(f"outcomes: {name} has no time at which it became known")
                values[f"hist_{time}"] = _stored_time(known[name])
        return values


def _trim(history: UserHistory, n: int) -> None:
    """Keep the newest n touchpoints, and the newest n decisions that have no outcome yet."""
    length = len(history["hist_timestamp"])
    waiting = [bool(decision) and not heard for decision, heard in zip(history[DECISION], history[EVENTS], strict=True)]
    kept = {kind: [i for i in range(length) if waiting[i] is kind][-n:] for kind in (False, True)}
    places = sorted(kept[False] + kept[True])
    if len(places) < length:
        for values in history.values():
            values[:] = [values[i] for i in places]


def _batches(items: Iterator[tuple[str, Change]]) -> Iterator[list[tuple[str, Change]]]:
    while some := list(islice(items, _BATCH)):
        yield some


def _digest(text: str) -> str:
    """Tells the ids of one user's touchpoints, and of one touchpoint's outcomes, from each other."""
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST // 2).hexdigest()


def _stored_time(when: datetime) -> float:
    """A time as a history stores it: microseconds since 1970."""
    if when.tzinfo is None:
        raise HistoryError(f"timestamp: {when} has no time zone")
    return float(microseconds(when))


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
