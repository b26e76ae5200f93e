"""Tests that the price is the lowest at which a policy's spend fits the budget."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.policy.decision import Forecast, PolicyParams, action_probabilities
from mtorl.policy.price import policy_price


def predictions(rows: int = 4000, channels: int = 4, seed: int = 0) -> Forecast:
    random = np.random.default_rng(seed)
    gain, cost = random.beta(1, 12, size=(rows, channels)), random.lognormal(-1, 0.7, size=(rows, channels))
    return Forecast(random.normal(size=(rows, channels)), gain, cost)


def spend(forecast: Forecast, params: PolicyParams, price: float = 0.0) -> float:
    probs, expose = action_probabilities(forecast, replace(params, price=price))
    return float((probs * expose * forecast.cost_BC).sum(axis=1).mean())


@pytest.mark.parametrize("beta", [0.0, 3.0, 1000.0])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_spend_is_within_tolerance_below_the_budget(share, beta):
    forecast, params = predictions(), PolicyParams(beta, 0.05, 0.0, 0.05)
    budget = share * spend(forecast, params)
    price = policy_price(forecast, params, budget)
    assert 0.995 * budget <= spend(forecast, params, price) <= budget and price > 0


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_currency_unit_does_not_matter(unit):
    forecast, params = predictions(rows=500), PolicyParams(3.0, 0.05, 0.0, 0.05)
    price, base = (
        policy_price(forecast._replace(cost_BC=forecast.cost_BC * u), params, 0.3 * u * forecast.cost_BC.mean())
        for u in (unit, 1.0)
    )
    assert price * unit == pytest.approx(base, rel=0.05)


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 5), share=st.floats(0.01, 1.5), beta=st.floats(0, 20))
def test_few_rows_never_overspend(seed, rows, share, beta):
    forecast, params = predictions(rows=rows, seed=seed), PolicyParams(beta, 0.05, 0.0, 0.05)
    budget = share * spend(forecast, params)
    assert spend(forecast, params, policy_price(forecast, params, budget)) <= budget


def test_an_unbinding_budget_or_free_exposures_have_price_zero():
    forecast, params = predictions(rows=50), PolicyParams()
    assert policy_price(forecast, params, 1e9) == 0.0
    assert policy_price(forecast._replace(cost_BC=np.zeros((50, 4))), params, 0.0) == 0.0


def test_a_budget_that_cannot_be_met_is_an_error():
    forecast, params = predictions(rows=50), PolicyParams()
    with pytest.raises(ValueError, match="at any price"):
        policy_price(forecast._replace(gain_BC=np.full((50, 4), 1e60)), params, 0.5 * spend(forecast, params))
    with pytest.raises(ValueError, match="budget must"):
        policy_price(forecast, params, 0.0)
