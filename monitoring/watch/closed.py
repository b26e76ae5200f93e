"""Recognises times of the week without decisions: a shop that is closed on Sundays is no fault."""

from __future__ import annotations

from datetime import datetime, timedelta

from monitoring.decision_log import DecisionLog, Period
from mtorl.log.lake import Lake

OCCASIONS = 2  # at this time of the week without decisions: once may have been a fault
LOOKED_BACK = 4  # weeks in which these are looked for: what happened longer ago is no habit
_WEEK = timedelta(days=7)


def closed_as_usual(lake: Lake, end: datetime, length: timedelta) -> bool:
    """Whether a period without decisions was without any on the last healthy occasions, too.

    An occasion is healthy if there were decisions in the week before it: an outage of a week shows nothing. That holds
    for the period itself. A period of a week or longer has no time of the week.

    Raises:
        LogError: A file of the lake can't be read.
    """
    if length >= _WEEK:
        return False

    def decisions(since: datetime, until: datetime) -> bool:
        return DecisionLog.of(lake, Period(since.isoformat(), until.isoformat())).holds_any()

    def healthy(at: datetime) -> bool:
        return decisions(at - _WEEK, at - length)

    before = (end - weeks * _WEEK for weeks in range(1, LOOKED_BACK + 1))
    occasions = [at for at in before if healthy(at)][:OCCASIONS] if healthy(end) else []
    return len(occasions) == OCCASIONS and not any(decisions(at - length, at) for at in occasions)
