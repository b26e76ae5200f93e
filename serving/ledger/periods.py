"""When a limit holds anew: never, each day or each hour, in UTC."""

from __future__ import annotations

import math
from typing import get_args

from mtorl.experiment.experiment import Period

PERIODS: tuple[Period, ...] = get_args(Period)
_SECONDS = {"day": 86_400, "hour": 3_600}


def start(period: Period, now: float) -> int:
    """When the period that holds at a time began, in seconds since 1970; 0 for "total"."""
    length = _SECONDS.get(period)
    return math.floor(now / length) * length if length else 0


def checked_age(seconds: float) -> float:
    """An age in seconds, or a ValueError."""
    if not 0 <= seconds < math.inf:
        raise ValueError(f"ttl: expected seconds of at least 0, got {seconds!r}")
    return seconds
