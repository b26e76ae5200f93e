"""Computes the positions of a drawing's marks, in percent of its width and height; the template draws them.

Labels are HTML next to the drawing, so they have the same size on any screen and need no escaping here.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Track(NamedTuple):
    """An interval on a line, in percent from the left."""

    low: float
    width: float
    value: float
    zero: float | None  # None: zero lies outside the drawn range
    margin: float | None = None  # position of the largest accepted harm of a guardrail


def domain(intervals: Sequence[Sequence[float | None] | None], *others: float) -> tuple[float, float]:
    """Both ends of a line that shows all of these values, with some space."""
    ends = [end for interval in intervals if interval for end in interval if end is not None]
    ends += [other for other in others if math.isfinite(other)]
    low, high = min(ends, default=-1.0), max(ends, default=1.0)
    room = 0.06 * (high - low) or abs(high) or 1.0
    return low - room, high + room


def track(
    interval: Sequence[float | None] | None, value: float | None, span: tuple[float, float], margin: float | None = None
) -> Track | None:
    """Place an interval on a line; None if the interval is unknown."""
    if not interval or value is None or interval[0] is None or interval[1] is None:
        return None

    def at(x: float) -> float:
        return round(100 * (x - span[0]) / (span[1] - span[0]), 2)

    low, high = at(interval[0]), at(interval[1])
    inside = span[0] <= 0 <= span[1]
    return Track(low, round(high - low, 2), at(value), at(0.0) if inside else None, at(margin) if margin else None)
