"""The price of a budget and the curves of what a budget buys."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtorl.evaluation.budget_curve import RULES, SHARES, budget_curve
from mtorl.policy.decision import PolicyParams, action_probabilities
from mtorl.policy.price import solve_price


def world(rows: int = 4000, channels: int = 4, seed: int = 0):
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
        probs, expose = action_probabilities(logits, gain, cost, params)
        return float((probs * expose * cost).sum(axis=1).mean())

    return spend


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9])
def test_spend_is_within_tolerance_below_the_budget(share):
    logits, gain, cost = world()
    for spend in (greedy_spend(gain, cost), policy_spend(logits, gain, cost, 3.0)):
        budget = share * spend(0.0)
        price = solve_price(spend, budget, tolerance=0.005)
        assert 0.995 * budget <= spend(price) <= budget
        assert price > 0


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_any_currency_unit_will_do(unit):
    _, gain, cost = world(rows=500)
    price, base = (
        solve_price(greedy_spend(gain, cost * u), 0.3 * u * cost.mean(), tolerance=0.02) for u in (unit, 1.0)
    )
    assert price * unit == pytest.approx(base, rel=0.05)


def test_a_smaller_budget_has_a_higher_price():
    _, gain, cost = world()
    spend = greedy_spend(gain, cost)
    prices = [solve_price(spend, share * spend(0.0)) for share in (0.05, 0.1, 0.3, 0.6, 0.9)]
    assert prices == sorted(prices, reverse=True)


def test_a_budget_that_does_not_bind_is_free():
    _, gain, cost = world()
    assert solve_price(greedy_spend(gain, cost), 1e9) == 0.0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 5), share=st.floats(0.01, 1.5), beta=st.floats(0, 20))
def test_few_rows_never_overspend(seed, rows, share, beta):
    logits, gain, cost = world(rows=rows, seed=seed)
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


def exposures(rows: int = 20_000, seed: int = 0):
    random = np.random.default_rng(seed)
    probability = random.beta(1, 9, size=rows)
    expected_cost = random.lognormal(0, 0.8, size=rows)
    gain = (random.random(rows) < probability).astype(float)
    return probability, expected_cost, gain, expected_cost * random.uniform(0.8, 1.2, size=rows)


def test_curve_orders_the_rules_as_they_deserve():
    rows = budget_curve(*exposures(), seed=1)
    assert [row["share"] for row in rows] == list(SHARES) == [0.1, 0.25, 0.375, 0.5, 0.75, 1.0]
    for row in rows[:-1]:
        assert row["oracle"] > row["mtorl"] > row["cheapest"] > row["random"]
        assert row["mtorl"] > row["predicted_gain"]
        assert row["random"] == pytest.approx(row["share"], abs=0.02)
    for name in RULES:
        values = [row[name] for row in rows]
        assert values == sorted(values)


def test_all_of_the_cost_buys_all_of_the_gain():
    probability, expected_cost, _, cost = exposures(rows=1000)
    # Each earns something, so that one left out would show; also in a resample that costs more than the log.
    row = budget_curve(probability, expected_cost, np.ones(1000), cost, users_B=np.arange(1000) // 4)[-1]
    assert row["share"] == 1.0
    assert {row[name] for name in RULES} == {1.0}
    assert row["mtorl_ci"] == [1.0, 1.0]
    assert row["mtorl_minus_cheapest"] == 0.0 and row["mtorl_minus_cheapest_ci"] == [0.0, 0.0]


def test_three_eighths_of_the_cost_by_hand():
    # Eight exposures of cost 1: the budget is three of them. Predicted costs tell the rules apart.
    gain_pred, cost_pred = [8, 7, 6, 5, 4, 3, 2, 1], [9, 1, 1, 5, 0.5, 5, 5, 5]
    gain = [1, 1, 0, 1, 0, 1, 0, 0]
    (row,) = budget_curve(gain_pred, cost_pred, gain, np.ones(8), shares=[0.375])
    assert row["mtorl"] == 0.25  # the fifth, second and third: 8, 7 and 6 per cost
    assert row["predicted_gain"] == 0.5
    assert row["cheapest"] == 0.25
    assert row["oracle"] == 0.75


def test_intervals_are_of_users():
    probability, expected_cost, gain, cost = exposures(rows=2000)
    alone = budget_curve(probability, expected_cost, gain, cost, shares=[0.375], users_B=np.arange(2000))
    # The same exposures four times over, once as four users' and once as one user's: no more is known than before.
    copies = [np.repeat(column, 4) for column in (probability, expected_cost, gain, cost)]
    clustered = budget_curve(*copies, shares=[0.375], users_B=np.repeat(np.arange(2000), 4))
    as_if_independent = budget_curve(*copies, shares=[0.375], users_B=np.arange(8000))
    for name in ("mtorl_ci", "mtorl_minus_cheapest_ci"):
        width, cluster, independent = (
            rows[0][name][1] - rows[0][name][0] for rows in (alone, clustered, as_if_independent)
        )
        assert cluster == pytest.approx(width, rel=0.25)
        assert independent == pytest.approx(width / 2, rel=0.25)


def test_intervals_cover_what_many_more_users_show():
    whole = budget_curve(*exposures(100_000, seed=99), shares=[0.375])[0]
    covered = {"mtorl": 0, "mtorl_minus_cheapest": 0}
    for seed in range(20):
        (row,) = budget_curve(*exposures(1000, seed), shares=[0.375], users_B=np.arange(1000), resamples=100)
        assert row["mtorl_minus_cheapest"] == row["mtorl"] - row["cheapest"]
        for name in covered:
            low, high = row[f"{name}_ci"]
            covered[name] += low <= whole[name] <= high
    assert min(covered.values()) >= 16


def test_the_difference_is_paired():
    _, expected_cost, gain, cost = exposures(rows=1000)
    (row,) = budget_curve(np.ones(1000), expected_cost, gain, cost, shares=[0.375], users_B=np.arange(1000))
    # With one predicted gain for all, gain per cost *is* cheapest first: on every resample, not just on average.
    assert row["mtorl_minus_cheapest"] == 0.0 and row["mtorl_minus_cheapest_ci"] == [0.0, 0.0]
    assert row["mtorl_ci"][1] - row["mtorl_ci"][0] > 0.03


def test_without_users_there_are_no_intervals():
    (row,) = budget_curve(*exposures(rows=100), shares=[0.5])
    assert row["mtorl_ci"] is None and row["mtorl_minus_cheapest_ci"] is None
    assert row["mtorl_minus_cheapest"] is not None


def test_a_constant_prediction_is_no_better_than_random_whatever_the_order_of_the_log():
    _, _, gain, cost = exposures()
    best_first = np.argsort(-gain / cost)
    flat = np.ones(len(gain))
    (row,) = budget_curve(flat, flat, gain[best_first], cost[best_first], shares=[0.3])
    assert row["mtorl"] == pytest.approx(0.3, abs=0.03)


def test_free_exposures_are_taken_first():
    (row,) = budget_curve([0.1, 0.9], [0.0, 1.0], [1.0, 1.0], [0.0, 1.0], shares=[0.5])
    assert row["mtorl"] == row["oracle"] == 0.5


def test_a_log_without_gain_has_no_shares_of_it():
    probability, expected_cost, gain, cost = exposures(rows=100)
    (row,) = budget_curve(probability, expected_cost, 0 * gain, cost, shares=[0.5])
    assert row == dict.fromkeys(budget_curve(*exposures(rows=100))[0]) | {"share": 0.5}


def test_curve_repeats_with_its_seed():
    data = exposures(rows=500)
    assert budget_curve(*data, seed=3) == budget_curve(*data, seed=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cost_true": [1.0, -1.0, 1.0]}, "cost_true must be finite and not negative"),
        ({"gain_pred": [np.nan, 0, 0]}, "gain_pred must be finite"),
        ({"cost_pred": [1.0]}, "cost_pred must have one value"),
        ({"shares": [0.0]}, "shares must lie in"),
        ({"users_B": ["a"]}, "users_B must have one value"),
    ],
)
def test_invalid_arrays_are_refused(change, message):
    arguments = {name: np.ones(3) for name in ("gain_pred", "cost_pred", "gain_true", "cost_true")}
    with pytest.raises(ValueError, match=message):
        budget_curve(**{**arguments, **change})


def test_a_rival_is_met_on_the_same_resamples():
    random = np.random.default_rng(3)
    gain, cost = (random.random(600) < 0.3).astype(float), random.uniform(0.5, 2.0, 600)
    users, good = np.repeat(np.arange(60), 10), gain + random.normal(0, 0.3, 600)
    noise = random.random(600)
    rows = budget_curve(good, cost, gain, cost, users_B=users, rival=(noise, cost))
    same = budget_curve(good, cost, gain, cost, users_B=users, rival=(good, cost))
    for row, equal in zip(rows, same, strict=True):
        assert row["mtorl_minus_rival"] == pytest.approx(row["mtorl"] - row["rival"])
        assert equal["rival"] == pytest.approx(equal["mtorl"], abs=0.02)  # ties are broken anew
    low, high = rows[0]["mtorl_minus_rival_ci"]
    assert 0 < low < rows[0]["mtorl_minus_rival"] < high
    assert "rival" not in budget_curve(good, cost, gain, cost)[0]
