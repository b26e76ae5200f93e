"""Tests that the scheduled spend follows the expected traffic."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mtorl.policy.messages import HAS_END, NEEDS_END
from mtorl.policy.pacing import Plan
from mtorl.policy.periods import Period, period_at
from mtorl.policy.schedule import HOUR, Pacing
from mtorl.runtime.validation import first_fault
from tests.messages import raises

NOON = 1_767_268_800.0  # 2026-01-01, 12:00 UTC
NIGHTS = (0.0,) * 8 + (1.0,) * 16


def test_a_day_follows_the_hours_of_the_day() -> None:
    schedule = Pacing(traffic=NIGHTS).schedule("day", "UTC", NOON - 12 * HOUR, NOON)
    plan = Plan(160.0, schedule)
    assert schedule.times[0] == NOON - 12 * HOUR and schedule.times[-1] == NOON + 12 * HOUR
    assert [plan.scheduled(NOON + hours * HOUR) for hours in (-12, -4, 0, 6, 12)] == pytest.approx([0, 0, 40, 100, 160])


def test_hours_are_in_the_budgets_time_zone() -> None:
    """In Berlin, 2026-10-25 has 25 hours, so 8:00 comes only after nine hours."""
    midnight = 1_792_879_200.0
    schedule = Pacing(traffic=NIGHTS).schedule("day", "Europe/Berlin", midnight, midnight + 12 * HOUR)
    plan = Plan(160.0, schedule)
    assert (schedule.times[0], schedule.times[-1]) == (midnight, midnight + 25 * HOUR)
    assert [plan.scheduled(midnight + hours * HOUR) for hours in (9, 10, 25)] == pytest.approx([0, 10, 160])


def test_an_hour_is_even_also_without_expected_traffic() -> None:
    for began in (NOON, NOON - 10 * HOUR):
        schedule = Pacing(traffic=NIGHTS).schedule("hour", "UTC", began, began + 5)
        assert (schedule.times[0], schedule.times[-1]) == (began, began + HOUR)
        assert schedule.share(began + HOUR / 4) == pytest.approx(0.25)


def test_a_period_extended_by_a_new_time_zone_ends_at_its_new_end() -> None:
    """The day begins at midnight in Tokyo. After a change of the time zone to UTC, the day ends at midnight in UTC."""
    began = NOON - 21 * HOUR
    schedule = Pacing().schedule("day", "UTC", began, NOON)
    assert (schedule.times[0], schedule.times[-1]) == (began, NOON + 12 * HOUR)
    late = Pacing().schedule("day", "UTC", NOON - 12 * HOUR, NOON + 12 * HOUR + 1)
    assert late.times[-1] == NOON + 12 * HOUR, "a clock that is slightly ahead does not extend a period"


def test_a_total_budget_is_spread_from_its_start_to_its_end() -> None:
    pacing = Pacing(traffic=NIGHTS, start="2026-01-01T07:30:00Z", end="2026-01-03T00:00:00+00:00")
    schedule = pacing.schedule("total", "UTC", NOON, NOON)
    assert schedule.share(NOON - 4 * HOUR) == 0 and schedule.share(schedule.times[-1]) == 1
    assert schedule.share(NOON + 12 * HOUR) == schedule.share(NOON + 20 * HOUR) == pytest.approx(0.5)


@given(st.floats(0, 4e9), st.sampled_from(["day", "hour"]), st.lists(st.floats(0, 1e6), min_size=24, max_size=24))
def test_any_time_is_within_its_plan(now: float, period: Period, traffic: list[float]) -> None:
    if not sum(traffic) > 0:
        return
    began = period_at(period, "UTC", now)[0]
    schedule = Pacing(traffic=tuple(traffic)).schedule(period, "UTC", float(began), now)
    length = 24 * HOUR if period == "day" else HOUR
    assert schedule.times[0] <= now < schedule.times[-1] == schedule.times[0] + length


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"traffic": (0.0,) * 24}, "traffic"),
        ({"start": "2026-01-01T00:00:00Z"}, "give both"),
        ({"start": "2026-01-02T00:00:00Z", "end": "2026-01-01T00:00:00Z"}, "before end"),
        ({"start": "2026-01-02", "end": "2026-01-03"}, "expected a time with its zone"),
        ({"start": "soon", "end": "later"}, "expected a time with its zone"),
        ({"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z", "opportunities": 5}, "one clock"),
        ({"start": "2026-01-01T00:00:00Z", "end": "2126-01-02T00:00:00Z"}, "3660 days at most"),
    ],
)
def test_inconsistent_settings_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        Pacing(**{"price": 0.3, **values})
    assert message in first_fault(error.value)


def test_a_total_budget_needs_an_end_and_a_period_must_not_have_one() -> None:
    times = {"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"}
    with raises(ValueError, NEEDS_END, period="total"):
        Pacing().check("total")
    for ends in (Pacing(**times), Pacing(opportunities=5)):
        ends.check("total")
        with raises(ValueError, HAS_END, period="day"):
            ends.check("day")
