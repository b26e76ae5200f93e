"""Budgets are spread as traffic is expected; what does not fit together is named."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mtorl.policy.periods import Period
from mtorl.policy.schedule import HOUR, Pacing
from mtorl.runtime.validation import first_fault

NOON = 1_767_268_800.0  # 2026-01-01, 12:00 UTC
NIGHTS = (0.0,) * 8 + (1.0,) * 16


def test_a_day_follows_the_hours_of_the_day() -> None:
    plan = Pacing(price=0.3, traffic=NIGHTS).plan(160.0, "day", "UTC", NOON)
    assert plan.times[0] == NOON - 12 * HOUR and plan.times[-1] == NOON + 12 * HOUR
    assert [plan.scheduled(NOON + hours * HOUR) for hours in (-12, -4, 0, 6, 12)] == pytest.approx([0, 0, 40, 100, 160])


def test_the_hours_are_those_of_the_budgets_time_zone() -> None:
    """2026-10-25 in Berlin: 25 hours, of which the first eight that the clock shows are nine."""
    midnight = 1_792_879_200.0
    plan = Pacing(price=0.3, traffic=NIGHTS).plan(160.0, "day", "Europe/Berlin", midnight + 12 * HOUR)
    assert (plan.times[0], plan.times[-1]) == (midnight, midnight + 25 * HOUR)
    assert [plan.scheduled(midnight + hours * HOUR) for hours in (9, 10, 25)] == pytest.approx([0, 10, 160])


def test_an_hour_is_even_also_when_nobody_is_expected() -> None:
    for now in (NOON + 1800, NOON - 10 * HOUR + 5):
        plan = Pacing(price=0.3, traffic=NIGHTS).plan(10.0, "hour", "UTC", now)
        assert plan.times[-1] - plan.times[0] == HOUR and plan.times[0] <= now < plan.times[-1]
        assert plan.scheduled(plan.times[0] + HOUR / 4) == pytest.approx(2.5)


def test_a_total_goes_from_its_start_to_its_end() -> None:
    pacing = Pacing(price=0.3, traffic=NIGHTS, start="2026-01-01T07:30:00Z", end="2026-01-03T00:00:00+00:00")
    plan = pacing.plan(100.0, "total", "UTC", NOON)
    assert plan.scheduled(NOON - 4 * HOUR) == 0 and plan.scheduled(plan.times[-1]) == 100
    assert plan.scheduled(NOON + 12 * HOUR) == plan.scheduled(NOON + 20 * HOUR) == pytest.approx(50)


@given(st.floats(0, 4e9), st.sampled_from(["day", "hour"]), st.lists(st.floats(0, 1e6), min_size=24, max_size=24))
def test_any_moment_lies_in_its_plan(now: float, period: Period, traffic: list[float]) -> None:
    if not sum(traffic) > 0:
        return
    plan = Pacing(price=1.0, traffic=tuple(traffic)).plan(7.0, period, "UTC", now)
    assert plan.times[0] <= now < plan.times[-1] == plan.times[0] + (24 * HOUR if period == "day" else HOUR)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"price": 0}, "price"),
        ({"price": True}, "price"),
        ({"traffic": (1.0,) * 23}, "traffic: expected at least 24 items"),
        ({"traffic": (0.0,) * 24}, "traffic"),
        ({"start": "2026-01-01T00:00:00Z"}, "give both"),
        ({"start": "2026-01-02T00:00:00Z", "end": "2026-01-01T00:00:00Z"}, "before end"),
        ({"start": "2026-01-02", "end": "2026-01-03"}, "no zone"),
        ({"start": "soon", "end": "later"}, "not an ISO time"),
        ({"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z", "opportunities": 5}, "one clock"),
        ({"opportunities": 0}, "opportunities"),
    ],
)
def test_what_does_not_fit_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        Pacing(**{"price": 0.3, **values})
    assert message in first_fault(error.value)


def test_a_total_needs_an_end_and_a_period_has_its_own() -> None:
    times = {"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"}
    with pytest.raises(ValueError, match="needs start and end, or opportunities"):
        Pacing().check("total")
    for ends in (Pacing(**times), Pacing(opportunities=5)):
        ends.check("total")
        with pytest.raises(ValueError, match="has an end already"):
            ends.check("day")


def test_a_count_of_opportunities_is_a_clock_too() -> None:
    plan = Pacing(opportunities=400).plan_of_count(20.0, 200.0)
    assert [plan.scheduled(n) for n in (0, 50, 200, 300)] == [0, 5, 20, 20]
