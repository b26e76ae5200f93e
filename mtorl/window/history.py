"""Defines the history of a decision: the earlier touchpoints of the user that the decision may use.

The history of a decision at time t contains the newest n touchpoints that both happened and were recorded before t. A
pause longer than the journey gap separates two journeys, and a history contains only the current journey.

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

# Windows that are built at a time, so that their slots fit into the processor's cache.
CHUNK = 1 << 15
_NEVER = np.iinfo(np.int64).min


def journey_gap_us(spec: DatasetSpec) -> int:
    """Return the journey gap in microseconds. A longer pause starts a new journey."""
    return round(spec.journey_gap_days * DAY_US)


def history_slice(times: Sequence[float], at: float, n: int, gap: int) -> slice:
    """Return which of a user's stored touchpoints are the history of a decision, as a slice.

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
        prev_N: Row of the previous touchpoint; -1 at the start of a journey.
        own_N: Row of the token's own touchpoint.
        valid_N: Whether the window's earlier touchpoints were all recorded before this token's decision.
    """

    length_B: Ints
    prev_N: Ints
    own_N: Ints
    valid_N: Bools


@dataclass(frozen=True)
class Timeline:
    """The times of all touchpoints in a log, grouped by user and sorted by time.

    Attributes:
        first_P: First row of the touchpoint's user.
        time_P: Time of the touchpoint, microseconds since 1970.
        known_P: Time at which the touchpoint was recorded; not before time_P.
    """

    first_P: Ints
    time_P: Ints
    known_P: Ints

    @classmethod
    def of(cls, steps: pa.Table) -> Timeline:
        """Create a timeline from the columns user_id, timestamp and, if present, created_timestamp.

        Raises:
            WindowError: A user id is null, or the rows are not sorted.
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
        """Return the tokens of the windows that end with the given rows of the log.

        A window has at most n tokens. `gap` is in microseconds.
        """
        chunks = np.split(rows_B, np.arange(CHUNK, len(rows_B), CHUNK))
        return Tokens(*map(np.concatenate, zip(*(self._tokens(chunk_B, n, gap) for chunk_B in chunks), strict=True)))

    def _tokens(self, rows_B: Ints, n: int, gap: int) -> Tokens:
        slots_BS = self._slots(rows_B, n, gap)
        prev_BT, own_BT = slots_BS[:, :-1], slots_BS[:, 1:]
        # A shorter history begins with a token that has no previous touchpoint (-1).
        length_B = np.minimum((prev_BT >= 0).sum(axis=1) + 1, n)
        real_BT = np.arange(n) >= n - length_B[:, None]
        # Latest recording time of the earlier touchpoints. Empty slots (-1) are ignored.
        known_BT = np.maximum.accumulate(np.where(prev_BT >= 0, self.known_P[prev_BT], _NEVER), axis=1)
        valid_BT = known_BT < self.time_P[own_BT]
        return Tokens(length_B, prev_BT[real_BT], own_BT[real_BT], valid_BT[real_BT])

    def _slots(self, rows_B: Ints, n: int, gap: int) -> Ints:
        """Return each row's history of up to n rows, padded with -1 on the left, and the row itself (B, n + 1)."""
        slots_BS = np.full((len(rows_B), n + 1), -1, dtype=np.int64)
        slots_BS[:, n] = rows_B
        # Each iteration reads the previous row of the log for all incomplete windows.
        window = np.arange(len(rows_B))
        now, first = self.time_P[rows_B], self.first_P[rows_B]
        at, slot, later = rows_B - 1, np.full(len(rows_B), n - 1), now
        while window.size:
            # `at` may be -1, which reads the last row. The condition `at >= first` discards this value.
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
