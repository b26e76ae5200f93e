"""The price of a budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.policy.decision import Forecast, PolicyParams, action_probabilities
from mtorl.policy.price import policy_price, solve_price


def predictions(rows: int = 4000, channels: int = 4, seed: int = 0) -> Forecast:
    random = np.random.default_rng(seed)
    gain, cost = random.beta(1, 12, size=(rows, channels)), random.lognormal(-1, 0.7, size=(rows, channels))
    return Forecast(random.normal(size=(rows, channels)), gain, cost)


def greedy_spend(forecast: Forecast):
    def spend(price: float) -> float:
        utility = forecast.gain_BC - price * forecast.cost_BC
        best = np.arange(len(utility)), utility.argmax(axis=1)
        return float((forecast.cost_BC[best] * (utility[best] >= 0)).mean())

    return spend


def policy_spend(forecast: Forecast, params: PolicyParams) -> float:
    probs, expose = action_probabilities(forecast, params)
    return float((probs * expose * forecast.cost_BC).sum(axis=1).mean())


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9])
def test_spend_is_within_tolerance_below_the_budget(share):
    forecast, params = predictions(), PolicyParams(3.0, 0.05, 0.0, 0.05)
    spend = greedy_spend(forecast)
    price = solve_price(spend, share * spend(0.0))
    assert 0.995 * share * spend(0.0) <= spend(price) <= share * spend(0.0) and price > 0
    budget = share * policy_spend(forecast, params)
    spent = policy_spend(forecast, replace(params, price=policy_price(forecast, params, budget)))
    assert 0.995 * budget <= spent <= budget


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_any_currency_unit_will_do(unit):
    forecast = predictions(rows=500)
    price, base = (
        solve_price(greedy_spend(forecast._replace(cost_BC=forecast.cost_BC * u)), 0.3 * u * forecast.cost_BC.mean())
        for u in (unit, 1.0)
    )
    assert price * unit == pytest.approx(base, rel=0.05)


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 5), share=st.floats(0.01, 1.5), beta=st.floats(0, 20))
def test_few_rows_never_overspend(seed, rows, share, beta):
    forecast, params = predictions(rows=rows, seed=seed), PolicyParams(beta, 0.05, 0.0, 0.05)
    spend = greedy_spend(forecast)
    assert spend(solve_price(spend, share * spend(0.0))) <= share * spend(0.0)
    budget = share * policy_spend(forecast, params)
    assert policy_spend(forecast, replace(params, price=policy_price(forecast, params, budget))) <= budget


def test_a_budget_that_does_not_bind_is_free_and_so_is_what_costs_nothing():
    forecast = predictions(rows=50)
    assert solve_price(greedy_spend(forecast), 1e9) == 0.0
    assert policy_price(forecast._replace(cost_BC=np.zeros((50, 4))), PolicyParams(), 0.0) == 0.0


def test_a_budget_that_cannot_be_met_is_an_error():
    with pytest.raises(ValueError, match="at any price"):
        solve_price(lambda _: 1.0, 0.5)
    with pytest.raises(ValueError, match="budget must be a positive number"):
        solve_price(lambda _: 1.0, 0.0)
