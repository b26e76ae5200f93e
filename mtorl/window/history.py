"""Defines the history of a decision: the earlier touchpoints that a decision may see.

The history of a decision at time t contains the newest n of the user's touchpoints that happened, and were recorded,
before t. It begins after the last pause that is longer than the journey gap, including the pause before t.

    Timeline.of(steps).tokens(rows, n, gap)      offline: rows of a sorted log, all at once
    history_slice(times, at, n, gap)             online: a user's last touchpoints from a feature store

Shape suffixes: P touchpoints of the log, B windows, S slots of a window (n earlier touchpoints, oldest first, then the
decision's own), N tokens of all windows, T tokens of one window.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from mtorl.arrays import Bools, Ints
from mtorl.log import columns as read
from mtorl.log.columns import WindowError
from mtorl.log.dataset import DatasetSpec
from mtorl.log.times import DAY_US
from mtorl.runtime.validation import short
from mtorl.window.messages import HISTORY_ORDER

CHUNK = 1 << 15  # windows laid out at a time, so that their slots fit into the processor's cache
_NEVER = np.iinfo(np.int64).min


def journey_gap_us(spec: DatasetSpec) -> int:
    """The longest pause inside a journey, in microseconds; a longer pause starts a new journey."""
    return round(spec.journey_gap_days * DAY_US)


def history_slice(times: Sequence[float], at: float, n: int, gap: int) -> slice:
    """The slice of a user's stored touchpoints, oldest first, that is the history of a decision at the time `at`.

    Times and `gap`, the longest pause inside a journey, are in microseconds; n is the window's length in touchpoints.
    Raises WindowError if times are not numbers or not in order.
    """
    numbers = all(isinstance(time, int | float) for time in times)
    if not numbers or not all(earlier <= later for earlier, later in pairwise((-inf, *times, inf))):
        raise WindowError(HISTORY_ORDER(given=short(times)))
    stop = first = bisect_left(times, at)
    later = at
    while first > max(0, stop - n) and later - times[first - 1] <= gap:
        first -= 1
        later = times[first]
    return slice(first, stop)


class Tokens(NamedTuple):
    """The tokens of several windows, one window after the other, as rows of the log."""

    length_B: Ints
    prev_N: Ints  # row of the previous touchpoint; -1 at the start of a journey
    own_N: Ints  # row of the token's own touchpoint
    valid_N: Bools  # whether all earlier touchpoints of the window were recorded before this token's decision


@dataclass(frozen=True)
class Timeline:
    """Touchpoints grouped by user, and sorted by time within each user."""

    first_P: Ints  # row of the user's first touchpoint
    time_P: Ints  # microseconds since 1970
    known_P: Ints  # when the touchpoint was recorded, microseconds since 1970; at least time_P

    @classmethod
    def of(cls, steps: pa.Table) -> Timeline:
        """Read user_id, timestamp and, if present, created_timestamp; WindowError with the `index` of a faulty row."""
        user_P = read.arrow_codes(read.flat(steps["user_id"]), "user_id").codes
        time_P = read.arrow_times(read.flat(steps["timestamp"]), "timestamp", null=None)
        known_P = time_P
        if "created_timestamp" in steps.column_names:
            created_P = read.arrow_times(read.flat(steps["created_timestamp"]), "created_timestamp", null=_NEVER)
            known_P = np.maximum(time_P, created_P)
        if (user_P < 0).any():
            raise WindowError("user_id is null", int(np.argmax(user_P < 0)))
        new_P = np.ones(len(user_P), dtype=np.bool_)
        new_P[1:] = user_P[1:] != user_P[:-1]
        early = np.flatnonzero(~new_P[1:] & (time_P[1:] <= time_P[:-1])) + 1
        starts = np.flatnonzero(new_P)
        again = np.setdiff1d(starts, starts[np.unique(user_P[starts], return_index=True)[1]])
        for rows, what in ((early, "not later than the row before it"), (again, "its user has rows further up")):
            if rows.size:
                i = int(rows[0])
                raise WindowError(f"row {i}: {what}; steps must be sorted by user_id and timestamp, without ties", i)
        return cls(starts[np.cumsum(new_P) - 1], time_P, known_P)

    def tokens(self, rows_B: Ints, n: int, gap: int) -> Tokens:
        """The tokens of the windows, of up to n touchpoints, of rows of the log in any order; gap in microseconds."""
        chunks = np.split(rows_B, np.arange(CHUNK, len(rows_B), CHUNK))
        return Tokens(*map(np.concatenate, zip(*(self._tokens(chunk_B, n, gap) for chunk_B in chunks), strict=True)))

    def _tokens(self, rows_B: Ints, n: int, gap: int) -> Tokens:
        slots_BS = self._slots(rows_B, n, gap)
        prev_BT, own_BT = slots_BS[:, :-1], slots_BS[:, 1:]
        # With fewer than n earlier touchpoints, an empty slot before the first one starts the journey.
        length_B = np.minimum((prev_BT >= 0).sum(axis=1) + 1, n)
        real_BT = np.arange(n) >= n - length_B[:, None]
        # The time at which all earlier touchpoints of a token were recorded; an empty slot counts as always recorded.
        known_BT = np.maximum.accumulate(np.where(prev_BT >= 0, self.known_P[prev_BT], _NEVER), axis=1)
        valid_BT = known_BT < self.time_P[own_BT]
        return Tokens(length_B, prev_BT[real_BT], own_BT[real_BT], valid_BT[real_BT])

    def _slots(self, rows_B: Ints, n: int, gap: int) -> Ints:
        """Rows of each touchpoint's history, aligned right, then the touchpoint's own row; empty slots are -1."""
        slots_BS = np.full((len(rows_B), n + 1), -1, dtype=np.int64)
        slots_BS[:, n] = rows_B
        # In each iteration, all incomplete windows step back by one touchpoint of the log.
        window = np.arange(len(rows_B))
        now, first = self.time_P[rows_B], self.first_P[rows_B]
        at, slot, later = rows_B - 1, np.full(len(rows_B), n - 1), now
        while window.size:
            time = self.time_P[at]  # index -1 reads the last row of the log; `at >= first` drops it
            goes_on = (at >= first) & (slot >= 0) & (later - time <= gap)
            if not goes_on.all():
                window, now, first, at, slot, later, time = (
                    values[goes_on] for values in (window, now, first, at, slot, later, time)
                )
            known = self.known_P[at] < now
            slots_BS[window[known], slot[known]] = at[known]
            later, slot, at = np.where(known, time, later), slot - known, at - 1
        return slots_BS
