"""When a budget is to be spent: from what an experiment file says of a budget to the plan that paces it.

    pacing = Pacing(price=0.3, traffic=(0.2,) * 8 + (1.0,) * 16)     # nights are quiet
    plan = pacing.plan(500.0, "day", now=time.time())                # of the day that `now` is in, UTC

Times are seconds since 1970.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from mtorl.policy.pacing import Plan

HOUR, DAY = 3600.0, 86_400.0
_HOURS_OF_DAY = 24
_FLAT = (1.0,) * _HOURS_OF_DAY
_LENGTH = {"hour": HOUR, "day": DAY}


@dataclass(frozen=True)
class Pacing:
    """How a budget is paced."""

    price: float  # gain per currency unit to begin with: mean gain / mean cost is a good one
    traffic: tuple[float, ...] = _FLAT  # expected in each hour of the day, UTC, in any unit
    start: str | None = None  # ISO time with a zone; of a budget without a period, which has no other beginning or end
    end: str | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.price) or self.price <= 0:
            raise ValueError(f"price: expected a number above 0, got {self.price!r}")
        good = len(self.traffic) == _HOURS_OF_DAY and all(_is_number(value) and value >= 0 for value in self.traffic)
        if not good or not sum(self.traffic) > 0:
            raise ValueError(f"traffic: expected 24 numbers of at least 0, not all 0, got {self.traffic!r}")
        if (self.start is None) != (self.end is None):
            raise ValueError("start and end: give both, or none for a budget with a period")
        if self.start is not None and self.end is not None and not _seconds(self.start) < _seconds(self.end):
            raise ValueError(f"start must be before end, got {self.start} and {self.end}")

    def check(self, period: str) -> None:
        """Whether it fits a budget's period.

        Raises:
            ValueError: it does not.
        """
        if (period == "total") != (self.start is not None):
            rule = "needs a start and an end" if period == "total" else "has no start and end of its own"
            raise ValueError(f"a budget with period {period} {rule}")

    def plan(self, amount: float, period: str, now: float) -> Plan:
        """The plan in force at a time.

        Args:
            amount: Of the budget, currency units, above 0.
            period: Of the budget: total, day or hour.
            now: A time in the period.
        """
        if self.start is not None and self.end is not None:
            start, end = _seconds(self.start), _seconds(self.end)
        else:
            start = now - now % _LENGTH[period]
            end = start + _LENGTH[period]
        first_full = (math.floor(start / HOUR) + 1) * HOUR
        edges = [start, *(first_full + i * HOUR for i in range(max(0, math.ceil((end - first_full) / HOUR)))), end]
        traffic = [self.traffic[int(a // HOUR) % _HOURS_OF_DAY] * (b - a) for a, b in pairwise(edges)]
        if not sum(traffic) > 0:  # an hour in which none is expected
            traffic = [b - a for a, b in pairwise(edges)]
        return Plan.following(traffic, edges, amount, self.price)


def _seconds(text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        raise ValueError(f"{text!r} is not an ISO time such as 2026-11-01T00:00:00Z") from None
    if found.tzinfo is None:
        raise ValueError(f"{text!r} has no zone; write 2026-11-01T00:00:00Z, for instance")
    return found.timestamp()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
