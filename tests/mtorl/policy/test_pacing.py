"""Tests that spend follows its schedule in a changing market and never exceeds the budget."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.policy.decision import Forecast, PolicyParams, action_probabilities, decide, utility_scale
from mtorl.policy.pacing import HORIZON, Plan, Schedule, State
from mtorl.policy.price import policy_price

SEEDS = (1, 2, 3)
# Without a shock, half of the users come each day.
DAYS, USERS = 3, 4000
# Expected cost per channel. A real cost is at most CAP times as high.
COST_C, CAP = np.array([0.05, 0.1, 0.2, 0.4]), 3.0
EVERY = 0.1  # hours between two updates, which makes 720 updates
BURN_IN = 6.0  # hours after the start, in which the gap may have any size
# Largest gap between spend and schedule after BURN_IN, as a share of the budget.
TOLERANCE = 0.02

Shock = Callable[[np.ndarray], np.ndarray]


class Traffic(NamedTuple):
    """Three days of opportunities in order of time, and a plan from an earlier log."""

    plan: Plan
    price: float  # the initial price
    policy: PolicyParams
    hour_B: np.ndarray
    # A user comes if this number from 0 to 1 is below half of the hour's traffic.
    rank_B: np.ndarray
    click_BC: np.ndarray  # click probabilities
    cost_BC: np.ndarray  # realised costs
    u_B: np.ndarray


@cache
def traffic_of(seed: int) -> Traffic:
    random = np.random.default_rng(seed)
    by_hour = 1.0 + 0.8 * np.sin(np.arange(24) / 24 * 2 * np.pi)
    rows = DAYS * USERS
    hour = random.choice(24, size=rows, p=by_hour / by_hour.sum()) + 24 * random.integers(DAYS, size=rows)
    click_BC = random.beta(1, 12, size=(rows, len(COST_C)))
    forecast = Forecast(0 * click_BC, click_BC, np.tile(COST_C, (rows, 1)))
    policy = PolicyParams(3.0, 0.05, 0.0, utility_scale(forecast))
    probs_BC, expose_BC = action_probabilities(forecast, policy)
    per_opportunity = 0.3 * float((probs_BC * expose_BC * COST_C).sum(axis=1).mean())
    return Traffic(
        Plan(per_opportunity * rows / 2, Schedule.following(by_hour.tolist() * DAYS, list(range(24 * DAYS + 1)))),
        policy_price(forecast, policy, per_opportunity),
        policy,
        np.sort(hour + random.random(rows)),
        random.random(rows),
        click_BC,
        COST_C * random.lognormal(-0.08, 0.4, size=click_BC.shape).clip(max=CAP),
        random.random(rows),
    )


def usual(hour: np.ndarray) -> np.ndarray:
    return np.ones_like(hour)


def times(factor: float, start: float, stop: float) -> Shock:
    return lambda hour: np.where((hour >= start) & (hour < stop), factor, 1.0)


SHOCKS: dict[str, tuple[Shock, Shock]] = {  # of traffic and of cost
    "none": (usual, usual),
    "traffic x2": (times(2.0, 24, 40), usual),
    "traffic x0.5": (times(0.5, 24, 40), usual),
    "cost x1.5": (usual, times(1.5, 24, 40)),
    "cost x1.5 to the end": (usual, times(1.5, 30, 72)),
    "all of them": (lambda hour: times(2.0, 18, 30)(hour) * times(0.5, 30, 48)(hour), times(1.5, 40, 60)),
}


def gaps(market: Traffic, shock: str, wrong: float = 1.0, heard: float = 1.0) -> tuple[np.ndarray, float]:
    """Simulate a campaign; returns (spend - schedule) / budget at each update, and the spent share."""
    plan = market.plan
    traffic, dearer = SHOCKS[shock]
    comes_B = market.rank_B < 0.5 * traffic(market.hour_B)
    hour_B, click_BC, u_B = market.hour_B[comes_B], market.click_BC[comes_B], market.u_B[comes_B]
    factor_B = dearer(hour_B)
    cost_BC = market.cost_BC[comes_B] * factor_B[:, None]
    random = np.random.default_rng(0)
    state, spent, found, start = plan.start(market.price * wrong), 0.0, [], 0
    for at in np.arange(1, round(24 * DAYS / EVERY) + 1) * EVERY:
        stop = int(np.searchsorted(hour_B, at))
        if stop > start:
            rows = slice(start, stop)
            expected_BC = np.broadcast_to(COST_C, click_BC[rows].shape)
            made = decide(
                Forecast(np.zeros_like(expected_BC), click_BC[rows], expected_BC),
                market.policy,
                u_B[rows],
                price_BC=plan.price(state),
            )
            cost_B = cost_BC[rows][np.arange(stop - start), made.channel_B] * made.expose_B
            # Once the most expensive exposure exceeds the budget, the ledger refuses all later ones.
            before_B = spent + np.cumsum(cost_B) - cost_B
            fits_B = np.logical_and.accumulate(before_B + CAP * COST_C.max() * factor_B[rows] <= plan.budget)
            spent += float(cost_B[fits_B].sum())
            start = stop
        if random.random() < heard:
            state = plan.update(state, at, spent)
        found.append((spent - plan.scheduled(at)) / plan.budget)
    return np.array(found), spent / plan.budget


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("shock", "options"),
    [
        *((shock, {}) for shock in SHOCKS),
        # Half of the updates are lost.
        *((shock, {"heard": 0.5}) for shock in ("none", "traffic x2", "cost x1.5")),
        # The first price is a third or three times the right price.
        *(("cost x1.5", {"wrong": wrong}) for wrong in (1 / 3, 3)),
    ],
)
def test_spend_follows_the_schedule(seed, shock, options):
    gap, spent = gaps(traffic_of(seed), shock, **options)
    assert np.abs(gap[round(BURN_IN / EVERY) :]).max() <= TOLERANCE and spent <= 1
    assert spent >= 1 - TOLERANCE or options


# A deterministic market, in which a higher price reduces the spend at once.
SCHEDULE = Schedule(times=(0.0, 60.0, 100.0), shares=(0.0, 0.75, 1.0))
HOURS = Plan(100.0, SCHEDULE)
START = HOURS.start(price_unit=2.0)


def smooth(plan: Plan, dearer_after: float, factor: float, steps: int = 1000, price: float = 2.0) -> list[State]:
    states = [plan.start(price)]
    for at in np.linspace(plan.schedule.times[0], plan.schedule.times[-1], steps + 1)[1:].tolist():
        last = states[-1]
        usual_spend = plan.scheduled(at) - plan.scheduled(last.at)
        cost = factor if at > dearer_after else 1.0
        spent = last.spent + usual_spend * cost * (plan.price(last) / price) ** -2
        states.append(plan.update(last, at, min(spent, plan.budget)))
    return states


def test_a_lasting_shock_leaves_no_lasting_gap():
    states = smooth(HOURS, dearer_after=30.0, factor=3.0)
    behind = np.array([state.spent - HOURS.scheduled(state.at) for state in states]) / HOURS.budget
    assert np.abs(behind[:301]).max() < 1e-9  # before the shock, the plan is exact
    assert behind.max() > 0.003
    assert np.abs(behind[600:]).max() < 1e-3
    assert states[-1].multiplier == pytest.approx(3**0.5, rel=0.01)


def test_the_step_means_the_same_in_any_currency():
    for unit in (1e-6, 1e6):
        plan = replace(HOURS, budget=HOURS.budget * unit)
        for here, there in zip(smooth(HOURS, 30.0, 3.0), smooth(plan, 30.0, 3.0, price=2.0 / unit), strict=True):
            assert there.multiplier == pytest.approx(here.multiplier, rel=1e-6)
            assert plan.price(there) * unit == pytest.approx(HOURS.price(here), rel=1e-6)


def test_the_step_means_the_same_at_any_interval():
    coarse, fine = (smooth(HOURS, 30.0, 1.5, steps)[-1] for steps in (500, 5000))
    assert coarse.multiplier == pytest.approx(fine.multiplier, rel=0.01)


def test_a_gap_is_closed_at_no_more_than_twice_the_pace():
    on_time = State(at=40.0, spent=50.0, multiplier=1.0, price_unit=2.0)
    assert HOURS.planned(on_time, 50.0) == pytest.approx(12.5)
    for ahead, pace in ((HORIZON / 2, 0.5), (HORIZON, 0.0), (0.4, 0.0), (-HORIZON / 2, 1.5), (-0.4, 2.0)):
        state = replace(on_time, spent=50.0 + ahead * HOURS.budget)
        assert HOURS.planned(state, 50.0) == pytest.approx(min(12.5 * pace, 100.0 - state.spent))


def test_an_outage_moves_the_price_no_more_than_a_short_interval():
    state = State(at=10.0, spent=12.5, multiplier=1.0, price_unit=2.0)
    short, long = (HOURS.update(state, at, 3 * (HOURS.scheduled(at) - 12.5) + 12.5) for at in (10.5, 25.0))
    assert 1.0 < short.multiplier <= long.multiplier < 2.0


def test_a_late_or_repeated_report_changes_nothing():
    state = HOURS.update(START, 5.0, 9.0)
    assert HOURS.update(state, 4.0, 7.0) == state
    assert HOURS.update(state, 5.0, 9.0) == state


def test_only_free_exposures_once_the_budget_is_spent():
    state = HOURS.update(START, 50.0, 100.0)
    assert HOURS.planned(state, 100.0) == 0.0
    made = decide(
        Forecast(np.zeros((2, 2)), np.full((2, 2), 50.0), [[0.01, 5.0], [0.0, 0.0]]),
        PolicyParams(),
        [0.2, 0.8],
        price_BC=HOURS.price(state),
    )
    assert made.expose_B.tolist() == [False, True]
    back = HOURS.update(state, 51.0, 60.0)  # reservations were cancelled
    assert HOURS.price(back) < 1e3


@given(
    reports=st.lists(st.tuples(st.floats(0.0, 120.0), st.floats(-10.0, 1e6)), max_size=20),
    spare=st.sampled_from([0.0, 5.0]),
)
def test_for_any_reports_the_price_is_finite_and_the_plan_fits(reports, spare):
    plan, state = replace(HOURS, spare=spare), START
    for at, spent in reports:
        state = plan.update(state, at, spent)
        assert 0 <= plan.price(state) < np.inf
        assert plan.planned(state, 120.0) <= max(plan.limit - state.spent, 0.0)
        assert plan.scheduled(at) <= plan.budget


def test_a_plan_that_begins_late_spreads_the_remaining_budget():
    plan = Plan(100.0, SCHEDULE, since=30.0, before=80.0)
    assert [plan.scheduled(at) for at in (0, 30, 60, 80, 100)] == pytest.approx([80, 80, 92, 96, 100])
    state = plan.start(2.0)
    assert (state.at, state.spent) == (30.0, 80.0)
    assert plan.planned(state, 60.0) == pytest.approx(12.0)
    assert plan.update(state, 60.0, 92.0).multiplier == pytest.approx(1.0)


def test_one_dear_exposure_of_a_small_budget_hardly_moves_the_price():
    plan = Plan(1.0, SCHEDULE, grain=0.04)
    after = plan.update(plan.start(2.0), 0.0, 0.04)
    assert np.log1p(after.multiplier) - np.log1p(1.0) == pytest.approx(1 / 20)
    unaware = replace(plan, grain=0.0)
    assert unaware.update(unaware.start(2.0), 0.0, 0.04).multiplier > 10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: HOURS.start(np.nan), "price_unit must be a positive number"),
        (lambda: HOURS.update(START, 1.0, np.nan), "must be finite"),
        (lambda: State(0.0, 0.0, -1.0, 2.0), "multiplier not negative"),
    ],
)
def test_invalid_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
