"""Prices of channel budgets against the linear programme that they solve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from mtorl.policy.allocation import Budgets, Prices, best_allocation, gain_bound

INF = np.inf


def predictions(rows: int = 300, channels: int = 4, seed: int = 0):
    random = np.random.default_rng(seed)
    gain = random.beta(1, 12, size=(rows, channels))
    cost = random.lognormal(-1, 0.7, size=(rows, channels))
    return gain, cost


def solve_directly(gain: np.ndarray, cost: np.ndarray, budgets: Budgets) -> float:
    """The programme as a dense matrix, written down a second time."""
    rows, channels = gain.shape
    once = np.kron(np.eye(rows), np.ones(channels))
    by_channel = np.tile(np.eye(channels), rows) * cost.ravel() / rows
    limits = np.r_[np.ones(rows), budgets.channel_C, budgets.total]
    matrix = np.vstack([once, by_channel, by_channel.sum(axis=0)])
    kept = np.isfinite(limits)
    found = linprog(-gain.ravel() / rows, A_ub=matrix[kept], b_ub=limits[kept], method="highs-ds")
    return float(-found.fun)


def within(allocation, budgets: Budgets) -> bool:
    return bool((allocation.spend_C <= budgets.channel_C).all() and allocation.spend_C.sum() <= budgets.total)


BUDGETS = [
    Budgets(np.array([0.02, 0.05, INF, 0.01])),
    Budgets(np.array([0.02, 0.05, INF, 0.01]), total=0.08),
    Budgets(np.full(4, INF), total=0.05),
    Budgets(np.full(4, 1e3), total=1e3),
]


@pytest.mark.parametrize("budgets", BUDGETS)
def test_the_best_allocation_solves_the_programme_and_its_prices_prove_it(budgets):
    gain, cost = predictions()
    best = best_allocation(gain, cost, budgets)
    optimum = solve_directly(gain, cost, budgets)
    assert best.gain == pytest.approx(optimum, rel=1e-6)
    assert gain_bound(gain, cost, budgets, best.prices) == pytest.approx(optimum, rel=1e-6)
    assert within(best, budgets) and (best.share_BC >= 0).all() and (best.share_BC.sum(axis=1) <= 1).all()
    # Complementary slackness.
    priced_C = best.prices.channel_C > 1e-9
    np.testing.assert_allclose(best.spend_C[priced_C], budgets.channel_C[priced_C], rtol=1e-6)
    if best.prices.total > 1e-9:
        assert best.spend_C.sum() == pytest.approx(budgets.total, rel=1e-6)
    utility_BC = gain - best.prices.row_1C * cost
    best_B = np.maximum(utility_BC.max(axis=1), 0.0)
    used = best.share_BC > 1e-6  # goes only where utility is highest, and not negative
    assert (utility_BC[used] >= np.broadcast_to(best_B[:, None], used.shape)[used] - 1e-9).all()
    assert best.share_BC.sum(axis=1)[best_B > 1e-6] == pytest.approx(1.0, abs=1e-6)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 12),
    limits=st.lists(st.floats(0.001, 1.0) | st.just(INF), min_size=4, max_size=4),
    prices=st.lists(st.floats(0.0, 3.0), min_size=4, max_size=4),
)
def test_any_prices_bound_any_allocation(seed, rows, limits, prices):
    gain, cost = predictions(rows, 3, seed)
    budgets = Budgets(np.array(limits[:3]), limits[3])
    bound = gain_bound(gain, cost, budgets, Prices(np.array(prices[:3]), prices[3]))
    best = best_allocation(gain, cost, budgets)
    assert within(best, budgets)
    assert best.gain <= bound * (1 + 1e-6) + 1e-9


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_any_currency_unit_will_do(unit):
    gain, cost = predictions()
    here, there = (
        best_allocation(gain, cost * u, Budgets(np.array([0.02, 0.05, INF, 0.01]) * u, 0.08 * u)) for u in (1.0, unit)
    )
    np.testing.assert_allclose(there.prices.row_1C * unit, here.prices.row_1C, rtol=1e-5)
    assert there.gain == pytest.approx(here.gain, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Budgets(np.array([1.0, 0.0])), "channel_C must be one positive number a channel"),
        (lambda: Budgets(np.array([1.0]), total=0.0), "total must be positive"),
        (lambda: best_allocation(np.ones((2, 3)), np.ones((2, 3)), Budgets(np.ones(2))), "2 channels"),
        (lambda: best_allocation(np.ones((0, 2)), np.ones((0, 2)), Budgets(np.ones(2))), "no rows"),
        (lambda: best_allocation([[1.0]], [[-1.0]], Budgets(np.ones(1))), "cost_BC must be finite and >= 0"),
    ],
)
def test_invalid_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
