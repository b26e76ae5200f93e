"""Histories of users in the online store: touchpoints are appended as they happen, outcomes patched as they arrive.

    history = open_history("runs/latest/features", spec)
    history.append("u1", Touchpoint(shown_at, "search", {"hour": 9.0, "device": "phone"}))
    history.patch("u1", shown_at, {"click": 1, "cost": 0.03})

A history lies where Feast's own materialisation puts it and Feast's own readers find it. Feast itself can only replace
it: two writers that read, add and replace lose touchpoints. Here every operation is atomic, and

- idempotent: a touchpoint is identified by its user and time; the same one again changes nothing, not even an outcome
- independent of order: a late touchpoint is inserted in its place, unless a full history has only younger ones
- bounded: the newest `spec.window` touchpoints stay
- merged with the log that a batch job brings: a touchpoint that only one of both has stays, and so does an outcome
- visible to Feast: the event time of the view is that of the newest touchpoint, so Redis ignores an older snapshot

SQLite and Redis behave the same; the repository's feature_store.yaml decides between them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from mtorl.log.dataset import Column, DatasetSpec
from mtorl.log.times import microseconds
from mtorl.window.window import history_types, outcome_columns

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 100  # users whose histories are merged at a time; on SQLite, appends wait while that many are merged

UserHistory = dict[str, list[Any]]
"""A user's last touchpoints: the columns of `history_types`, lists of equal length."""


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


class History(ABC):
    """The histories of all users in one online store. A `HistoryError` says that a value does not fit the data set."""

    def __init__(self, spec: DatasetSpec) -> None:
        self._spec = spec
        # Each column, and whether it holds numbers.
        self._columns = {name: kind == "float64" for name, kind in history_types(spec).items()}
        self._unknown = outcome_columns(spec)

    def append(self, user_id: str, touchpoint: Touchpoint) -> bool:
        """Put a touchpoint into the user's history.

        Returns whether it was inserted: not if the history has it already, or is full and has only younger ones.
        """
        return self._insert(user_id, self._values(touchpoint))

    def patch(
        self,
        user_id: str,
        timestamp: datetime,
        outcomes: Mapping[str, float],
        known: Mapping[str, datetime] | None = None,
    ) -> bool:
        """Replace the named outcomes of the user's touchpoint at exactly this time; returns whether there is one."""
        return self._overwrite(user_id, _stored_time(timestamp), self._outcomes(outcomes, known or {}))

    def merge(self, rows: pa.Table) -> int:
        """Merge histories from a log, one row for each user; returns how many have changed.

        The newest `spec.window` of the touchpoints that either has stay. For a touchpoint that both have, the log
        decides, except for an outcome that is 0 or null there, since the log may not know it yet. A column that the
        stored history lacks is unknown for its touchpoints. A broken stored history is replaced.
        """
        columns = ["user_id", *history_types(self._spec)]
        changed = 0
        for start in range(0, rows.num_rows, _BATCH):
            batch = rows.select(columns).slice(start, _BATCH).to_pylist()
            changed += self._merge({row.pop("user_id"): row for row in batch if row["hist_timestamp"]})
        return changed

    @abstractmethod
    def close(self) -> None:
        """Close the connection to the store."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @abstractmethod
    def _insert(self, user_id: str, values: dict[str, float | str]) -> bool:
        """Insert at its time, unless it is there or too old; `values` has all columns of `history_types`."""

    @abstractmethod
    def _overwrite(self, user_id: str, at: float, values: dict[str, float]) -> bool:
        """Overwrite columns of numbers for the touchpoint at a time (us since 1970); returns whether there is one."""

    @abstractmethod
    def _merge(self, logged: dict[str, UserHistory]) -> int:
        """Merge into each user's history; returns how many have changed."""

    def _values(self, touchpoint: Touchpoint) -> dict[str, float | str]:
        if touchpoint.channel not in self._spec.channels:
            raise HistoryError(f"channel: {touchpoint.channel!r} is not one of {', '.join(self._spec.channels)}")
        context = {c.name: _context(c, touchpoint.context.get(c.name)) for c in self._spec.context}
        return {
            "hist_timestamp": _stored_time(touchpoint.timestamp),
            "hist_channel": touchpoint.channel,
            **self._unknown,
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
