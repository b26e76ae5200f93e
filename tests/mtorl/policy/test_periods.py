"""Tests that budget periods follow each other without gaps, in any time zone."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.log.times import zone
from mtorl.policy.periods import FOREVER, Period, period_after, period_at

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Africa/Cairo", "Asia/Beirut")
WESTERN = ("Atlantic/Azores", "America/Sao_Paulo", "America/Denver", "Pacific/Honolulu", "Pacific/Kiritimati")
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
        ("2026-04-24", "Africa/Cairo", 23),  # 0:00 to 1:00 is missing
        ("2026-10-29", "Africa/Cairo", 25),  # 23:00 to 24:00 occurs twice
    ],
)
def test_a_day_has_the_hours_of_its_time_zone(day: str, timezone: str, hours: int) -> None:
    noon = datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=zone(timezone)).timestamp()
    start, end = period_at("day", timezone, noon)
    assert end - start == hours * HOUR
    assert datetime.fromtimestamp(start, zone(timezone)).date().isoformat() == day


@given(
    st.sampled_from(["day", "hour"]),
    st.floats(1e9, 2e9),
    st.lists(st.tuples(st.floats(-30 * HOUR, 60 * HOUR), st.booleans(), st.sampled_from(ZONES + WESTERN)), max_size=60),
)
def test_at_most_one_period_begins_per_period_in_any_zone(
    period: Period, now: float, steps: list[tuple[float, bool, str]]
) -> None:
    timezone, (start, until) = "UTC", period_at(period, "UTC", now)
    for seconds, edited, another in steps:
        now += seconds
        timezone = another if edited else timezone
        if not edited and until > now:
            continue
        new, end = period_after(period, timezone, start, until, now)
        assert new == start or (until <= now and new - start >= (23 if period == "day" else 1) * HOUR and new <= now)
        assert end > now
        start, until = new, end


@given(st.floats(1e9, 2e9), st.sampled_from(["day", "hour"]), st.sampled_from(ZONES + WESTERN), st.floats(0, 24 * HOUR))
def test_first_period_of_a_new_zone_begins_within_two(now: float, period: Period, timezone: str, later: float) -> None:
    start, until = period_at(period, "UTC", now)
    edit = min(now + later, until - 1)
    new, end = period_after(period, timezone, start, until, edit)
    while new == start:
        new, end = period_after(period, timezone, start, end, end)
    assert (new, end) == period_at(period, timezone, new)
    assert new - start <= (48 if period == "day" else 2) * HOUR


@pytest.mark.parametrize("timezone", [*ZONES, *WESTERN])
def test_in_one_zone_periods_follow_the_calendar(timezone: str) -> None:
    period = period_at("day", timezone, 1.77e9)
    for _ in range(800):
        following = period_after("day", timezone, *period, period[1])
        assert following == period_at("day", timezone, period[1])
        period = following


def test_all_time_has_no_end() -> None:
    assert period_at("total", "Europe/Berlin", 5.0) == (0, FOREVER)
