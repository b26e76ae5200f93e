"""Converts the pacing settings of a budget into a schedule: the share of the budget to be spent by each time.

Times are seconds since 1970.
"""

from __future__ import annotations

import math
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from mtorl.log.times import moment, zone
from mtorl.policy.messages import HAS_END, NEEDS_END
from mtorl.policy.pacing import Schedule
from mtorl.policy.periods import Period, period_at
from mtorl.runtime.validation import FromList, StrictModel

HOUR = 3600.0
_HOURS_OF_DAY = 24
_CLOCKS_DIFFER = 600.0  # largest expected difference between two clocks, seconds
_LONGEST_DAYS = 3660  # largest number of days between `start` and `end`


class Pacing(StrictModel):
    """Settings of pacing, which spreads the spending of a budget over its period."""

    price: float | None = Field(default=None, gt=0)
    """First price in gain per currency unit. It should be within a factor of ten of the right price. If this value is
    changed, pacing starts again from it. By default, the first price is estimated from the arms' forecasts for their
    first decisions."""
    traffic: Annotated[
        tuple[Annotated[float, Field(ge=0, le=1e9)], ...],
        FromList,
        Field(min_length=_HOURS_OF_DAY, max_length=_HOURS_OF_DAY),
    ] = (1.0,) * _HOURS_OF_DAY
    """Expected traffic in each of the 24 hours of a day, in any unit. The hours are in the budget's time zone."""
    start: str | None = None
    """Start of a budget without a period, as ISO 8601 time with a time zone. No ad is shown before `start` or after
    `end`."""
    end: str | None = None
    opportunities: int | None = Field(default=None, gt=0, le=10**15)
    """Number of decisions, over all arms, for which the budget should last. It replaces start and end."""

    @field_validator("traffic")
    @classmethod
    def _some_traffic_is_expected(cls, traffic: tuple[float, ...]) -> tuple[float, ...]:
        if not sum(traffic) > 0:
            raise ValueError("expected traffic in some hour, got 0 in all of them")
        return traffic

    @field_validator("start", "end")
    @classmethod
    def _is_a_time(cls, moment: str | None) -> str | None:
        if moment is not None:
            _seconds(moment)
        return moment

    @model_validator(mode="after")
    def _start_is_before_end(self) -> Pacing:
        if (self.start is None) != (self.end is None):
            raise ValueError("start and end: give both, or none for a budget with a period")
        if self.start is not None and self.end is not None and not _seconds(self.start) < _seconds(self.end):
            raise ValueError(f"start must be before end, got {self.start} and {self.end}")
        if self.start is not None and self.end is not None:
            days = (_seconds(self.end) - _seconds(self.start)) / (_HOURS_OF_DAY * HOUR)
            if days > _LONGEST_DAYS:
                raise ValueError(f"from start to end may be {_LONGEST_DAYS} days at most, got {days:.0f}")
        if self.start is not None and self.opportunities is not None:
            raise ValueError("give start and end, or opportunities: a budget has one clock")
        return self

    def check(self, period: str) -> None:
        """Check that these settings fit the period of a budget.

        Raises:
            ValueError: a budget for all time has no end, or a budget per day or hour has one.
        """
        ends = self.start is not None or self.opportunities is not None
        if (period == "total") != ends:
            raise ValueError((NEEDS_END if period == "total" else HAS_END)(period=period))

    def schedule(self, period: Period, timezone: str, began: float, now: float) -> Schedule:
        """Return the schedule of a time-paced budget for its current period.

        Args:
            began: Beginning of the current period.
            now: Current time. A time long after the period's end means that the budget's time zone has changed.
        """
        if self.start is not None and self.end is not None:
            return _schedule(self.traffic, timezone, _seconds(self.start), _seconds(self.end))
        end = float(period_at(period, timezone, began)[1])
        if end < now - _CLOCKS_DIFFER:
            end = float(period_at(period, timezone, now)[1])
        return _schedule(self.traffic, timezone, began, end)


# Cached, because all accounts of a budget request this schedule every second.
@lru_cache(maxsize=1024)
def _schedule(traffic: tuple[float, ...], timezone: str, start: float, end: float) -> Schedule:
    first_full = float(period_at("hour", timezone, start)[1])
    edges = [start, *(first_full + i * HOUR for i in range(max(0, math.ceil((end - first_full) / HOUR)))), end]
    hours = [datetime.fromtimestamp(edge, zone(timezone)).hour for edge in edges[:-1]]
    expected = [traffic[hour] * (b - a) for hour, (a, b) in zip(hours, pairwise(edges), strict=True)]
    if not sum(expected) > 0:  # no traffic is expected between start and end
        return Schedule.even(start, end)
    return Schedule.following(expected, edges)


def _seconds(text: str) -> float:
    return moment(text).timestamp()
