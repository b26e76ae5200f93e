"""Days and hours of any time zone follow each other without a gap, and hold their moment."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.policy.periods import FOREVER, Period, period_at, zone

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Africa/Cairo", "Asia/Beirut")
HOUR = 3600


@given(st.floats(0, 4e9), st.sampled_from(["day", "hour"]), st.sampled_from(ZONES))
def test_periods_follow_each_other(now: float, period: Period, timezone: str) -> None:
    start, end = period_at(period, timezone, now)
    assert start <= now < end
    assert period_at(period, timezone, start) == (start, end)
    assert period_at(period, timezone, end)[0] == end
    assert (end - start == HOUR) if period == "hour" else (end - start in (23 * HOUR, 24 * HOUR, 25 * HOUR))


@pytest.mark.parametrize(
    ("day", "timezone", "hours"),
    [
        ("2026-03-28", "Europe/Berlin", 24),
        ("2026-03-29", "Europe/Berlin", 23),
        ("2026-10-25", "Europe/Berlin", 25),
        ("2026-03-08", "America/New_York", 23),
        ("2026-11-01", "America/New_York", 25),
        ("2026-04-24", "Africa/Cairo", 23),  # begins at 1:00
        ("2026-10-29", "Africa/Cairo", 25),  # ends with a second 23:00
    ],
)
def test_a_day_has_the_hours_that_its_zone_gives_it(day: str, timezone: str, hours: int) -> None:
    noon = datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=zone(timezone)).timestamp()
    start, end = period_at("day", timezone, noon)
    assert end - start == hours * HOUR
    assert datetime.fromtimestamp(start, zone(timezone)).date().isoformat() == day


def test_all_time_has_no_end() -> None:
    assert period_at("total", "Europe/Berlin", 5.0) == (0, FOREVER)
