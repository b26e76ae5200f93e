"""Numbers as people read them. Anything absent is an em dash, never an error.

The functions are filters of the page templates: `{{ row.click_rate | share }}`.
"""

import math
import re
from collections.abc import Callable, Collection
from functools import wraps
from numbers import Real
from typing import Any

ABSENT = "—"


def _of_finite(show: Callable[..., str]) -> Callable[..., str]:
    """Extend a function of finite numbers: true minus signs, and `ABSENT` for anything else."""

    @wraps(show)
    def shown(value: Any, *args: Any, **options: Any) -> str:
        finite = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        return show(float(value), *args, **options).replace("-", "−") if finite else ABSENT

    return shown


@_of_finite
def count(value: float) -> str:
    """A whole number with thousands separated."""
    return f"{value:,.0f}"


@_of_finite
def number(value: float) -> str:
    """A number to four digits, or to the unit where it has more."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@_of_finite
def fixed(value: float, places: int = 4) -> str:
    """A number with fixed decimal places, so that a column of them lines up."""
    return f"{value:,.{places}f}"


@_of_finite
def signed(value: float, places: int = 4) -> str:
    """A difference: always with its sign."""
    return f"{value:+,.{places}f}"


@_of_finite
def share(value: float, places: int | None = None) -> str:
    """A share as percent; unless places are given, a small one is not shown as zero."""
    if places is None and 0 < value < 1e-4:
        return "< 0.01%"
    digits = places if places is not None else 2 if 0 < abs(value) < 0.01 else 1
    return f"{value:.{digits}%}"


@_of_finite
def p_value(value: float) -> str:
    """A p-value; very small ones only as a bound."""
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def interval(value: Any, places: int = 4, plus: bool = False) -> str:
    """An interval in brackets."""
    ends = [(signed if plus else fixed)(end, places) for end in value] if isinstance(value, list | tuple) else []
    return f"[{ends[0]}, {ends[1]}]" if len(ends) == 2 and ABSENT not in ends else ABSENT


def estimate(value: Any, ci: Any, places: int = 4) -> str:
    """A difference, with its interval if that is known."""
    known = interval(ci, places, plus=True)
    return signed(value, places) + (f" {known}" if known != ABSENT else "")


@_of_finite
def duration(seconds: float) -> str:
    """A length of time, in the largest unit of which it has two."""
    for unit, length in (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return "1 minute" if 45 <= seconds < 75 else f"{seconds:.0f} seconds"


def noun(value: float, singular: str, plural: str) -> str:
    """The form of a noun that goes with a count."""
    return singular if value == 1 else plural


def counted(value: int, singular: str, plural: str) -> str:
    """A count with its noun."""
    return f"{value:,} {noun(value, singular, plural)}"


def day(moment: str) -> str:
    """The day of an ISO time."""
    return moment[:10]


def sentence(text: Any, names: Collection[str] = ()) -> str:
    """A reason as a sentence: capital, full stop, true minus signs.

    A first word among `names`, of arms and the like, stays as people write it.
    """
    words = re.sub(r"(?<![\w.])-(?=\d)", "−", str(text)).strip().rstrip(".")
    if words.partition(" ")[0].rstrip(":,") in names:
        return f"{words}."
    return f"{words[:1].upper()}{words[1:]}."


FILTERS = {
    function.__name__: function
    for function in (count, number, fixed, signed, share, p_value, interval, estimate, duration, noun, day, sentence)
}
