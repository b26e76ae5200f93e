"""Computes the periods of a budget: all time, or a day or hour in the budget's time zone.

    start, end = period_at("day", "Europe/Berlin", time.time())     # 23 or 25 hours when the clocks change

Times are seconds since 1970.
"""

import math
from datetime import datetime, time, timedelta
from typing import Literal, get_args

from mtorl.log.times import zone

Period = Literal["total", "day", "hour"]
PERIODS: tuple[Period, ...] = get_args(Period)

# end of the period "total", which a double represents exactly
FOREVER = 2**53

_HOUR = 3600
_SHORTEST: dict[Period, int] = {"total": 0, "day": 23 * _HOUR, "hour": _HOUR}
"""Shortest time in seconds between the beginnings of two periods. A day is 23 hours long when clocks are put forward.
"""


def period_at(period: Period, timezone: str, now: float) -> tuple[int, int]:
    """Return the beginning and the end of the period that contains `now`; (0, FOREVER) for the period "total"."""
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
    """Return the current period of an account that already had a period.

    After a change of the time zone or the clock, a new period begins only when the last period is over.

    Args:
        start: Beginning of the account's last period.
        until: End of the account's last period; 0 if unknown.

    Returns:
        The beginning of the current period, and the end of the calendar period that contains `now`.
    """
    next_start, end = period_at(period, timezone, now)
    begins = until <= now and next_start - start >= _SHORTEST[period]
    return (next_start if begins else start), end
