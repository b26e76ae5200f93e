"""Defines the history of a decision: the earlier touchpoints of the user that the decision may use.

The history of a decision at time t contains the newest n touchpoints that happened before t and were also recorded
before t. If the user paused for longer than the journey gap, the history contains only touchpoints after the last such
pause. The pause that ends at t counts as well.

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

# Number of windows that are built at a time, so that their slots fit into the cache of the processor.
CHUNK = 1 << 15
_NEVER = np.iinfo(np.int64).min


def journey_gap_us(spec: DatasetSpec) -> int:
    """Return the journey gap in microseconds: a pause that is longer than this starts a new journey."""
    return round(spec.journey_gap_days * DAY_US)


def history_slice(times: Sequence[float], at: float, n: int, gap: int) -> slice:
    """Return which of a user's stored touchpoints are the history of a decision at the time `at`, as a slice.

    Args:
        times: Times of the user's touchpoints in microseconds, oldest first.
        at: Time of the decision in microseconds.
        n: Largest number of touchpoints in the history.
        gap: Longest pause inside a journey, in microseconds.

    Raises:
        WindowError: The times are not numbers, or not in ascending order.
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
    """The tokens of several windows, one window after the other. Touchpoints are given as rows of the log.

    Attributes:
        length_B: Number of tokens of each window.
        prev_N: Row of the previous touchpoint in the log; -1 at the start of a journey.
        own_N: Row of the token's own touchpoint in the log.
        valid_N: Whether all earlier touchpoints in the window were already recorded when this token's decision was
            made.
    """

    length_B: Ints
    prev_N: Ints
    own_N: Ints
    valid_N: Bools


@dataclass(frozen=True)
class Timeline:
    """The times of all touchpoints in a log, grouped by user and sorted by time within each user.

    Attributes:
        first_P: First row of the user to whom the touchpoint belongs.
        time_P: Time of the touchpoint, microseconds since 1970.
        known_P: Time at which the touchpoint was recorded, microseconds since 1970; not before time_P.
    """

    first_P: Ints
    time_P: Ints
    known_P: Ints

    @classmethod
    def of(cls, steps: pa.Table) -> Timeline:
        """Create a timeline from the columns user_id, timestamp and, if present, created_timestamp.

        Raises:
            WindowError: A user id is null, or the rows are not sorted; the error has the `index` of the first such row.
        """
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
        """Return the tokens of one window for each of the given rows of the log. A window ends with its row.

        Rows may be in any order. A window has at most n tokens. `gap` is the longest pause inside a journey, in
        microseconds.
        """
        chunks = np.split(rows_B, np.arange(CHUNK, len(rows_B), CHUNK))
        return Tokens(*map(np.concatenate, zip(*(self._tokens(chunk_B, n, gap) for chunk_B in chunks), strict=True)))

    def _tokens(self, rows_B: Ints, n: int, gap: int) -> Tokens:
        slots_BS = self._slots(rows_B, n, gap)
        prev_BT, own_BT = slots_BS[:, :-1], slots_BS[:, 1:]
        # A history with fewer than n touchpoints contains the start of the journey. Its window then begins with a token
        # that has no previous touchpoint (-1).
        length_B = np.minimum((prev_BT >= 0).sum(axis=1) + 1, n)
        real_BT = np.arange(n) >= n - length_B[:, None]
        # The time at which the last of the earlier touchpoints in the window was recorded. Empty slots (-1) are
        # ignored.
        known_BT = np.maximum.accumulate(np.where(prev_BT >= 0, self.known_P[prev_BT], _NEVER), axis=1)
        valid_BT = known_BT < self.time_P[own_BT]
        return Tokens(length_B, prev_BT[real_BT], own_BT[real_BT], valid_BT[real_BT])

    def _slots(self, rows_B: Ints, n: int, gap: int) -> Ints:
        """Return, for each row, up to n earlier rows that are its history, followed by the row itself (B, n + 1).

        If a history has fewer than n rows, the array is padded with -1 on the left.
        """
        slots_BS = np.full((len(rows_B), n + 1), -1, dtype=np.int64)
        slots_BS[:, n] = rows_B
        # Fill all windows at once. Each iteration reads the previous row of the log for each window that is not yet
        # complete.
        window = np.arange(len(rows_B))
        now, first = self.time_P[rows_B], self.first_P[rows_B]
        at, slot, later = rows_B - 1, np.full(len(rows_B), n - 1), now
        while window.size:
            # `at` may be -1, which reads the last row of the log. The condition `at >= first` then discards this value.
            time = self.time_P[at]
            goes_on = (at >= first) & (slot >= 0) & (later - time <= gap)
            if not goes_on.all():
                window, now, first, at, slot, later, time = (
                    values[goes_on] for values in (window, now, first, at, slot, later, time)
                )
            known = self.known_P[at] < now
            slots_BS[window[known], slot[known]] = at[known]
            later, slot, at = np.where(known, time, later), slot - known, at - 1
        return slots_BS
