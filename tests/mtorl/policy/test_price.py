"""The price of a budget and the curves of what a budget buys."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.policy.decision import Forecast, PolicyParams, action_probabilities
from mtorl.policy.price import solve_price


def predictions(rows: int = 4000, channels: int = 4, seed: int = 0):
    random = np.random.default_rng(seed)
    gain = random.beta(1, 12, size=(rows, channels))
    cost = random.lognormal(-1, 0.7, size=(rows, channels))
    return random.normal(size=(rows, channels)), gain, cost


def greedy_spend(gain: np.ndarray, cost: np.ndarray):
    def spend(price: float) -> float:
        utility = gain - price * cost
        best = np.arange(len(gain)), utility.argmax(axis=1)
        return float((cost[best] * (utility[best] >= 0)).mean())

    return spend


def policy_spend(logits: np.ndarray, gain: np.ndarray, cost: np.ndarray, beta: float):
    def spend(price: float) -> float:
        params = PolicyParams(beta, 0.05, price, utility_scale=0.05)
        probs, expose = action_probabilities(Forecast(logits, gain, cost), params)
        return float((probs * expose * cost).sum(axis=1).mean())

    return spend


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9])
def test_spend_is_within_tolerance_below_the_budget(share):
    logits, gain, cost = predictions()
    for spend in (greedy_spend(gain, cost), policy_spend(logits, gain, cost, 3.0)):
        budget = share * spend(0.0)
        price = solve_price(spend, budget, tolerance=0.005)
        assert 0.995 * budget <= spend(price) <= budget
        assert price > 0


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_any_currency_unit_will_do(unit):
    _, gain, cost = predictions(rows=500)
    price, base = (
        solve_price(greedy_spend(gain, cost * u), 0.3 * u * cost.mean(), tolerance=0.02) for u in (unit, 1.0)
    )
    assert price * unit == pytest.approx(base, rel=0.05)


def test_a_smaller_budget_has_a_higher_price():
    _, gain, cost = predictions()
    spend = greedy_spend(gain, cost)
    prices = [solve_price(spend, share * spend(0.0)) for share in (0.05, 0.1, 0.3, 0.6, 0.9)]
    assert prices == sorted(prices, reverse=True)


def test_a_budget_that_does_not_bind_is_free():
    _, gain, cost = predictions()
    assert solve_price(greedy_spend(gain, cost), 1e9) == 0.0


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 5), share=st.floats(0.01, 1.5), beta=st.floats(0, 20))
def test_few_rows_never_overspend(seed, rows, share, beta):
    logits, gain, cost = predictions(rows=rows, seed=seed)
    for spend in (greedy_spend(gain, cost), policy_spend(logits, gain, cost, beta)):
        budget = share * spend(0.0)
        assert spend(solve_price(spend, budget)) <= budget


def test_free_channels_cost_nothing_and_do_no_harm():
    spend = greedy_spend(np.array([[0.1, 0.2]]), np.array([[0.0, 1.0]]))
    assert spend(solve_price(spend, 0.5)) == 0.0


def test_what_cannot_be_solved_is_said():
    with pytest.raises(ValueError, match="at any price"):
        solve_price(lambda _: 1.0, 0.5)
    with pytest.raises(ValueError, match="budget must be a positive number"):
        solve_price(lambda _: 1.0, 0.0)
