"""A user's window in the online store: touchpoints are appended as they happen, outcomes patched in when they come.

    history = open_history("runs/latest/features", spec)
    history.append("u1", Touchpoint(shown_at, "search", {"hour": 9.0, "device": "phone"}))
    history.patch("u1", shown_at, {"click": 1, "cost": 0.03})

The window lies where Feast's own materialisation puts it and Feast's own readers find it. Feast itself can only replace
it: two writers who read, add and replace lose touchpoints. Here every operation is atomic, whoever else writes, and

- idempotent: a touchpoint is known by its user and time; the same one again changes nothing, patched outcomes included
- order-safe: a late touchpoint lands in its place; one that is older than all of a full window is dropped
- capped: the newest `spec.window` touchpoints stay
- joined with the log, when a batch job brings it: what only one of them has, and outcomes that only one knows, stays
- seen by Feast: the event time of the view is that of the newest touchpoint, so that Redis ignores an older snapshot

Redis and SQLite behave the same; the repository's feature_store.yaml decides.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from features.feature_repo.names import history_types
from mtorl.log.dataset import OUTCOMES, Column, DatasetSpec
from mtorl.log.times import microseconds

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 100  # users whose windows are merged at a time; appends wait for so many on SQLite

Window = dict[str, list[Any]]
"""The columns of `history_types`, lists of equal length."""


class HistoryError(ValueError):
    """The window can't be written; the message says why and what to do."""


@dataclass(frozen=True)
class Touchpoint:
    """One exposure of a user.

    Attributes:
        timestamp: When, with a time zone; microseconds count.
        channel: One of the data set's channels.
        context: Value of each context column; a missing one is null.
        outcomes: click, conversion, revenue, cost as far as they are known; 0 until then.
    """

    timestamp: datetime
    channel: str
    context: Mapping[str, Any]
    outcomes: Mapping[str, float] = field(default_factory=dict)


class History(ABC):
    """The windows of all users.

    Args:
        spec: Description of the data set.
    """

    def __init__(self, spec: DatasetSpec) -> None:
        self._spec = spec
        self._columns = {name: kind == "float64" for name, kind in history_types(spec).items()}  # whether numbers

    def append(self, user_id: str, touchpoint: Touchpoint) -> bool:
        """Put a touchpoint into the user's window.

        Returns:
            Whether it is new there; False for one that the window has, or that is too old for it.

        Raises:
            HistoryError: A value does not fit the data set, or the stored window is broken.
        """
        return self._insert(user_id, self._values(touchpoint))

    def patch(self, user_id: str, timestamp: datetime, outcomes: Mapping[str, float]) -> bool:
        """Replace outcomes of the touchpoint that the user had at exactly this time.

        Args:
            user_id: Who.
            timestamp: The touchpoint's own time, not the outcome's.
            outcomes: New values; those not named stay.

        Returns:
            Whether there is such a touchpoint in the window.

        Raises:
            HistoryError: A value does not fit the data set, or the stored window is broken.
        """
        return self._overwrite(user_id, _stored_time(timestamp), _outcomes(outcomes))

    def merge(self, rows: pa.Table) -> int:
        """Bring in what a log says: of each user the touchpoints of both, the newest `spec.window`.

        What the log says of a touchpoint holds, but for an outcome that is 0 or null there: it may not be known there
        yet. A column that the window does not have yet is unknown for what is in it. A stored window that is broken is
        replaced by that of the log.

        Args:
            rows: user_id and the columns of the window, a row a user.

        Returns:
            How many windows have changed.
        """
        columns = ["user_id", *history_types(self._spec)]
        changed = 0
        for start in range(0, rows.num_rows, _BATCH):
            batch = rows.select(columns).slice(start, _BATCH).to_pylist()
            changed += self._join({row.pop("user_id"): row for row in batch if row["hist_timestamp"]})
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
        """Insert by hist_timestamp, unless it is there or too old; `values` has all `history_types`."""

    @abstractmethod
    def _overwrite(self, user_id: str, at: float, values: dict[str, float]) -> bool:
        """Overwrite number columns of the touchpoint at a time (us since 1970)."""

    @abstractmethod
    def _join(self, windows: dict[str, Window]) -> int:
        """Merge into each user's window; how many have changed."""

    def _values(self, touchpoint: Touchpoint) -> dict[str, float | str]:
        if touchpoint.channel not in self._spec.channels:
            raise HistoryError(f"channel: {touchpoint.channel!r} is not one of {', '.join(self._spec.channels)}")
        context = {c.name: _context(c, touchpoint.context.get(c.name)) for c in self._spec.context}
        return {
            "hist_timestamp": _stored_time(touchpoint.timestamp),
            "hist_channel": touchpoint.channel,
            **{f"hist_{name}": 0.0 for name in OUTCOMES},
            **_outcomes(touchpoint.outcomes),
            **{f"hist_{name}": value for name, value in context.items()},
        }


def _stored_time(when: datetime) -> float:
    """A time as a history stores it: microseconds since 1970."""
    if when.tzinfo is None:
        raise HistoryError(f"timestamp: {when} has no time zone")
    return float(microseconds(when))


def _outcomes(outcomes: Mapping[str, float]) -> dict[str, float | Any]:
    unknown = sorted(set(outcomes) - set(OUTCOMES))
    if unknown:
        raise HistoryError(f"outcomes: unknown {', '.join(unknown)}; known: {', '.join(OUTCOMES)}")
    values = {f"hist_{name}": float(value) for name, value in outcomes.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise HistoryError(f"outcomes: {name.removeprefix('hist_')} is {value}; expected a finite number")
    return values


def _context(column: Column, value: Any) -> float | str:
    """As a window stores it: null is NaN among numbers, and "" among texts."""
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
