"""Formats numbers for people; missing values become an em dash."""

import math
import re
from collections.abc import Callable, Collection
from functools import wraps
from numbers import Real
from typing import Any

ABSENT = "—"


def _of_finite(show: Callable[..., str]) -> Callable[..., str]:
    """Let a function for finite numbers accept any value, and return `ABSENT` for other values."""

    @wraps(show)
    def shown(value: Any, *args: Any, **options: Any) -> str:
        finite = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        return show(float(value), *args, **options).replace("-", "−") if finite else ABSENT

    return shown


@_of_finite
def count(value: float) -> str:
    """Format a whole number with thousands separators."""
    return f"{value:,.0f}"


@_of_finite
def number(value: float) -> str:
    """Format a number with four significant digits, or as a whole number from 1,000 on."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@_of_finite
def fixed(value: float, places: int = 4) -> str:
    """Format a number with fixed decimal places."""
    return f"{value:,.{places}f}"


@_of_finite
def signed(value: float, places: int = 4) -> str:
    """Format a difference, always with its sign."""
    return f"{value:+,.{places}f}"


@_of_finite
def share(value: float, places: int | None = None) -> str:
    """Format a share as percent, so that a small share never shows as zero."""
    if places is None and 0 < value < 1e-4:
        return "< 0.01%"
    digits = places if places is not None else 2 if 0 < abs(value) < 0.01 else 1
    return f"{value:.{digits}%}"


@_of_finite
def p_value(value: float) -> str:
    """Format a p-value, with "< 0.0001" for smaller values."""
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def interval(value: Any, places: int = 4, plus: bool = False) -> str:
    """Format an interval in brackets, or return `ABSENT` if the value is not an interval."""
    ends = [(signed if plus else fixed)(end, places) for end in value] if isinstance(value, list | tuple) else []
    return f"[{ends[0]}, {ends[1]}]" if len(ends) == 2 and ABSENT not in ends else ABSENT


def estimate(value: Any, ci: Any, places: int = 4) -> str:
    """Format a difference, followed by its interval if known."""
    known = interval(ci, places, plus=True)
    return signed(value, places) + (f" {known}" if known != ABSENT else "")


@_of_finite
def duration(seconds: float) -> str:
    """Format a duration in the largest unit, up to days, that fits at least twice."""
    for unit, length in (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return "1 minute" if 45 <= seconds < 75 else f"{seconds:.0f} seconds"


def noun(value: float, singular: str, plural: str) -> str:
    """Return the singular of a noun for 1, and the plural otherwise."""
    return singular if value == 1 else plural


def counted(value: int, singular: str, plural: str) -> str:
    """Format a count with its noun."""
    return f"{value:,} {noun(value, singular, plural)}"


def day(moment: str) -> str:
    """Return the day of an ISO time."""
    return moment[:10]


def sentence(text: Any, names: Collection[str] = ()) -> str:
    """Format a reason as a sentence, with a capital letter and a full stop.

    The first word keeps its case if it is in `names`, such as the name of an arm.
    """
    words = re.sub(r"(?<![\w.])-(?=\d)", "−", str(text)).strip().rstrip(".")
    if words.partition(" ")[0].rstrip(":,") in names:
        return f"{words}."
    return f"{words[:1].upper()}{words[1:]}."


FILTERS = {
    function.__name__: function
    for function in (count, number, fixed, signed, share, p_value, interval, estimate, duration, noun, day, sentence)
}
