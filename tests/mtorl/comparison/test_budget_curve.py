"""Tests of the budget curve: the share of all gain that a given share of all cost can buy."""

import numpy as np
import pytest

from mtorl.comparison.budget_curve import RULES, SHARES, GainAndCost, budget_curve
from mtorl.evaluation.resamples import UserResamples


def curve(gain_predicted, cost_predicted, gain, cost, users_B=None, resamples=200, seed=0, **options):
    users = None if users_B is None else UserResamples(users_B, resamples, seed)
    predicted, logged = GainAndCost(gain_predicted, cost_predicted), GainAndCost(gain, cost)
    return budget_curve(predicted, logged, seed=seed, users=users, **options)


def exposures(rows: int = 20_000, seed: int = 0):
    random = np.random.default_rng(seed)
    probability = random.beta(1, 9, size=rows)
    expected_cost = random.lognormal(0, 0.8, size=rows)
    gain = (random.random(rows) < probability).astype(float)
    return probability, expected_cost, gain, expected_cost * random.uniform(0.8, 1.2, size=rows)


def test_better_rules_gain_more():
    rows = curve(*exposures(), seed=1)
    assert [row["share"] for row in rows] == list(SHARES) == [0.1, 0.25, 0.375, 0.5, 0.75, 1.0]
    for row in rows[:-1]:
        assert row["oracle"] > row["mtorl"] > row["cheapest"] > row["random"]
        assert row["mtorl"] > row["predicted_gain"]
        assert row["random"] == pytest.approx(row["share"], abs=0.02)
    for name in RULES:
        values = [row[name] for row in rows]
        assert values == sorted(values)


def test_three_eighths_of_the_cost_by_hand():
    # The budget is enough for three of eight exposures, which cost 1 each.
    gain_pred, cost_pred = [8, 7, 6, 5, 4, 3, 2, 1], [9, 1, 1, 5, 0.5, 5, 5, 5]
    gain = [1, 1, 0, 1, 0, 1, 0, 0]
    (row,) = curve(gain_pred, cost_pred, gain, np.ones(8), shares=[0.375])
    # The fifth, second and third exposure have the highest predicted gains per cost: 8, 7 and 6.
    assert row["mtorl"] == 0.25
    assert row["predicted_gain"] == 0.5
    assert row["cheapest"] == 0.25
    assert row["oracle"] == 0.75


def test_intervals_cover_the_values_of_a_larger_log():
    whole = curve(*exposures(100_000, seed=99), shares=[0.375])[0]
    covered = {"mtorl": 0, "mtorl_minus_cheapest": 0}
    for seed in range(20):
        (row,) = curve(*exposures(1000, seed), shares=[0.375], users_B=np.arange(1000), resamples=100)
        assert row["mtorl_minus_cheapest"] == row["mtorl"] - row["cheapest"]
        for name in covered:
            low, high = row[f"{name}_ci"]
            covered[name] += low <= whole[name] <= high
    assert min(covered.values()) >= 16


def test_free_exposures_are_taken_first():
    (row,) = curve([0.1, 0.9], [0.0, 1.0], [1.0, 1.0], [0.0, 1.0], shares=[0.5])
    assert row["mtorl"] == row["oracle"] == 0.5


def test_with_negative_gains_a_good_rule_gains_more_than_all_exposures():
    """A good rule drops the negative gains; all five exposures together gain only 1."""
    (row,) = curve([4, 3, -1, -2, -3], [1.0, 1, 1, 1, 0], [4, 3, -1, -2, -3], [1.0, 1, 1, 1, 0], shares=[0.5])
    assert row["mtorl"] == row["oracle"] == 7.0
    (loss,) = curve([4, 3], [1.0, 1], [-4, 3], [1.0, 1], shares=[0.5])
    assert loss["mtorl"] is None and loss["oracle"] is None


def test_a_log_without_gain_has_no_shares():
    probability, expected_cost, gain, cost = exposures(rows=100)
    (row,) = curve(probability, expected_cost, 0 * gain, cost, shares=[0.5])
    assert row == dict.fromkeys(curve(*exposures(rows=100))[0]) | {"share": 0.5}
    (usual,) = curve(*exposures(rows=100), shares=[0.5])
    assert usual["mtorl_ci"] is None and usual["mtorl_minus_cheapest"] is not None, "without users, no intervals"


def test_a_rival_is_compared_on_the_same_resamples():
    random = np.random.default_rng(3)
    gain, cost = (random.random(600) < 0.3).astype(float), random.uniform(0.5, 2.0, 600)
    users, good = np.repeat(np.arange(60), 10), gain + random.normal(0, 0.3, 600)
    noise = random.random(600)
    rows = curve(good, cost, gain, cost, users_B=users, rival=GainAndCost(noise, cost))
    same = curve(good, cost, gain, cost, users_B=users, rival=GainAndCost(good, cost))
    for row, equal in zip(rows, same, strict=True):
        assert row["mtorl_minus_rival"] == pytest.approx(row["mtorl"] - row["rival"])
        assert equal["rival"] == pytest.approx(equal["mtorl"], abs=0.02)  # each draw breaks ties differently
    low, high = rows[0]["mtorl_minus_rival_ci"]
    assert 0 < low < rows[0]["mtorl_minus_rival"] < high
    assert "rival" not in curve(good, cost, gain, cost)[0]
