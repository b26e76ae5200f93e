"""Periods of a budget: all time, or a day or an hour of the budget's own time zone.

    start, end = period_at("day", "Europe/Berlin", time.time())     # 23 or 25 hours, twice a year

Times are seconds since 1970.
"""

import math
from datetime import datetime, time, timedelta
from typing import Literal, get_args

from mtorl.log.times import zone

Period = Literal["total", "day", "hour"]
PERIODS: tuple[Period, ...] = get_args(Period)

FOREVER = 2**53  # the end of "total": later than any clock, and still exact as a double

_HOUR = 3600
_SHORTEST: dict[Period, int] = {"total": 0, "day": 23 * _HOUR, "hour": _HOUR}
"""Seconds between the beginnings of two periods at least. A day in which clocks go forward has 23 hours."""


def period_at(period: Period, timezone: str, now: float) -> tuple[int, int]:
    """Beginning and end of the period that holds at a time; (0, FOREVER) for "total"."""
    if period == "total":
        return 0, FOREVER
    local = datetime.fromtimestamp(now, zone(timezone))
    if period == "day":
        midnights = (
            datetime.combine(day, time(), local.tzinfo) for day in (local.date(), local.date() + timedelta(days=1))
        )
        start, end = (math.floor(midnight.timestamp()) for midnight in midnights)
        return start, end
    offset = local.utcoffset()
    assert offset is not None, "the zone is known"
    ahead = math.floor(offset.total_seconds())
    start = math.floor((now + ahead) / _HOUR) * _HOUR - ahead
    return start, start + _HOUR


def period_after(period: Period, timezone: str, start: int, until: int, now: float) -> tuple[int, int]:
    """The period in force at a time, as `period_at`, after the last period that an account had, in any time zone.

    The last one, from `start` `until` then (0: not known), goes on until it is over and the next may begin. So neither
    a change of the time zone nor a clock that was ahead begins two periods within one. Its end is then that of the
    calendar's period at `now`.
    """
    next_start, end = period_at(period, timezone, now)
    begins = until <= now and next_start - start >= _SHORTEST[period]
    return (next_start if begins else start), end
