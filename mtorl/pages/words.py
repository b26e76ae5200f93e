"""Numbers as people read them. Anything absent is an em dash, never an error.

The functions are filters of the page templates: `{{ row.click_rate | share }}`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from numbers import Real
from typing import Any

ABSENT = "—"


def count(value: Any) -> str:
    """A whole number with thousands separated."""
    finite = _finite(value)
    return ABSENT if finite is None else f"{finite:,.0f}"


def number(value: Any) -> str:
    """A number to four digits, or to the unit where it has more."""
    finite = _finite(value)
    if finite is None:
        return ABSENT
    return _true_minus(f"{finite:,.0f}" if abs(finite) >= 1000 else f"{finite:.4g}")


def fixed(value: Any, places: int = 4, sign: str = "-") -> str:
    """A number with fixed decimal places, so that a column of them lines up."""
    finite = _finite(value)
    return ABSENT if finite is None else _true_minus(f"{finite:{sign},.{places}f}")


def signed(value: Any, places: int = 4) -> str:
    """A difference: always with its sign."""
    return fixed(value, places, "+")


def share(value: Any, places: int | None = None) -> str:
    """A share as percent; unless places are given, a small one is not shown as zero."""
    finite = _finite(value)
    if finite is None:
        return ABSENT
    if places is None:
        if 0 < finite < 1e-4:
            return "< 0.01%"
        places = 2 if 0 < abs(finite) < 0.01 else 1
    return _true_minus(f"{finite:.{places}%}")


def p_value(value: Any) -> str:
    """A p-value; very small ones only as a bound."""
    finite = _finite(value)
    if finite is None:
        return ABSENT
    return "< 0.0001" if finite < 1e-4 else f"{finite:.4f}"


def interval(value: Any, places: int = 4, plus: bool = False) -> str:
    """An interval in brackets."""
    if not isinstance(value, list | tuple) or len(value) != 2 or any(_finite(edge) is None for edge in value):
        return ABSENT
    show = signed if plus else fixed
    return f"[{show(value[0], places)}, {show(value[1], places)}]"


def estimate(value: Any, ci: Any, places: int = 4) -> str:
    """A difference, with its interval if that is known."""
    known = interval(ci, places, plus=True)
    return signed(value, places) + (f" {known}" if known != ABSENT else "")


def duration(seconds: Any) -> str:
    """A length of time, in the largest unit of which it has two."""
    finite = _finite(seconds)
    if finite is None:
        return ABSENT
    for unit, length in (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0)):
        if finite >= 2 * length:
            return f"{finite / length:.0f} {unit}"
    return "1 minute" if 45 <= finite < 75 else f"{finite:.0f} seconds"


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


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        return None
    return float(value)


def _true_minus(text: str) -> str:
    return text.replace("-", "−")


FILTERS = {
    function.__name__: function
    for function in (count, number, fixed, signed, share, p_value, interval, estimate, duration, noun, day, sentence)
}
