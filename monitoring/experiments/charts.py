"""Places of a drawing's marks, in percent of its width and height; the template draws them.

Text stays HTML beside the drawing: it has its size on a phone as on a desktop, and nothing here needs escaping.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

_TICKS = 5


class Track(NamedTuple):
    """An interval on a line, in percent from the left."""

    low: float
    width: float
    value: float
    zero: float | None  # None: zero is not on the line
    margin: float | None = None  # of a guardrail: the harm that is accepted


def domain(intervals: Sequence[Sequence[float | None] | None], *others: float) -> tuple[float, float]:
    """Both ends of a line that shows all of these, with some room."""
    ends = [end for interval in intervals if interval for end in interval if end is not None]
    ends += [other for other in others if math.isfinite(other)]
    low, high = min(ends, default=-1.0), max(ends, default=1.0)
    room = 0.06 * (high - low) or abs(high) or 1.0
    return low - room, high + room


def track(
    interval: Sequence[float | None] | None, value: float | None, span: tuple[float, float], margin: float | None = None
) -> Track | None:
    """Place an interval on a line; None: it has no ends."""
    if not interval or value is None or interval[0] is None or interval[1] is None:
        return None

    def at(x: float) -> float:
        return round(100 * (x - span[0]) / (span[1] - span[0]), 2)

    low, high = at(interval[0]), at(interval[1])
    inside = span[0] <= 0 <= span[1]
    return Track(low, round(high - low, 2), at(value), at(0.0) if inside else None, at(margin) if margin else None)


def effect_chart(series: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Draw the effect with its interval as users arrived; None: fewer than two looks have an interval.

    Paths are in a square of 100; `looks` are strips of the chart with their numbers as a tooltip.
    """
    looks = [look for look in series if None not in (look["lift"], look["lo"], look["hi"])]
    if len(looks) < 2:
        return None
    # The first looks' intervals are so wide that nothing else would be seen: what is beyond is cut off.
    lows, highs = ([look[end] for look in looks] for end in ("lo", "hi"))
    later = len(looks) // 4
    low, high = min([*lows[later:], 0.0]), max([*highs[later:], 0.0])
    room = 0.1 * (high - low)
    low, high = low - room, high + room
    first, last = looks[0]["users"], looks[-1]["users"]

    def x(users: float) -> float:
        return round(100 * (users - first) / max(last - first, 1), 2)

    def y(value: float) -> float:
        return round(min(max(100 * (high - value) / (high - low), 0.0), 100.0), 2)

    upper = [f"{x(look['users'])} {y(look['hi'])}" for look in looks]
    lower = [f"{x(look['users'])} {y(look['lo'])}" for look in reversed(looks)]
    middle = [f"{x(look['users'])} {y(look['lift'])}" for look in looks]
    half = 50 / max(len(looks) - 1, 1)
    return {
        "band": f"M{' L'.join([*upper, *lower])} Z",
        "line": f"M{' L'.join(middle)}",
        "zero": y(0.0),
        "x": [{"at": x(at), "label": f"{at:,.0f}"} for at in _round_numbers(first, last)],
        "y": [{"at": y(at), "label": _label(at)} for at in _round_numbers(low, high)],
        "looks": [
            {
                "at": round(x(look["users"]) - half, 2),
                "width": round(2 * half, 2),
                "words": f"{look['users']:,} users: {look['lift']:+.4g} [{look['lo']:+.4g}, {look['hi']:+.4g}]",
            }
            for look in looks
        ],
        "end": y(looks[-1]["lift"]),
    }


def _round_numbers(low: float, high: float) -> list[float]:
    """A few round numbers between two others."""
    step = 10 ** math.floor(math.log10(max((high - low) / _TICKS, 1e-12)))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= _TICKS)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _label(value: float) -> str:
    return "0" if value == 0 else f"{value:+.4g}".replace("-", "−")
