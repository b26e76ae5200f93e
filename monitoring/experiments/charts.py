"""Computes the positions of the parts of a chart in percent of its width."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Track(NamedTuple):
    """The drawn position of a confidence interval, in percent from the left.

    Attributes:
        zero: Position of the value 0; None if the chart does not contain 0.
        margin: Position of the largest harm that a guardrail accepts; None without a guardrail.
    """

    low: float
    width: float
    value: float
    zero: float | None
    margin: float | None = None


def domain(intervals: Sequence[Sequence[float | None] | None], *others: float) -> tuple[float, float]:
    """Return the ends of an axis with all intervals and numbers, and a margin of 6 %."""
    ends = [end for interval in intervals if interval for end in interval if end is not None]
    ends += [other for other in others if math.isfinite(other)]
    low, high = min(ends, default=-1.0), max(ends, default=1.0)
    room = 0.06 * (high - low) or abs(high) or 1.0
    return low - room, high + room


def track(
    interval: Sequence[float | None] | None, value: float | None, span: tuple[float, float], margin: float | None = None
) -> Track | None:
    """Compute an interval's position on an axis from `span[0]` to `span[1]`; None if it is unknown."""
    if not interval or value is None or interval[0] is None or interval[1] is None:
        return None

    def at(x: float) -> float:
        return round(100 * (x - span[0]) / (span[1] - span[0]), 2)

    low, high = at(interval[0]), at(interval[1])
    inside = span[0] <= 0 <= span[1]
    return Track(low, round(high - low, 2), at(value), at(0.0) if inside else None, at(margin) if margin else None)
