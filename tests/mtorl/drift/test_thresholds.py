"""Tests that drift thresholds equal a calibration at grid points and are rarely too low between them."""

import json
from itertools import product

import numpy as np
import pandas as pd
import pytest

from mtorl.drift.drift_tests import CategoricalDistance, NumericDistance, asked_of
from mtorl.drift.reference import MAX_ROWS, MIN_USERS
from mtorl.drift.thresholds import Size, ThresholdGrid, Thresholds, measure
from tests.mtorl.drift.journeys import KINDS, touchpoints

REFERENCE = touchpoints(np.random.default_rng(0), 300)
GRID = ThresholdGrid.measure(REFERENCE, KINDS, imitations=100)
ROWS = len(REFERENCE) / 300


def test_a_grid_survives_a_round_trip_through_json() -> None:
    again = ThresholdGrid.from_dict(json.loads(json.dumps(GRID.to_dict(), allow_nan=False)))
    assert again.at(Size(77, 300), KINDS) == GRID.at(Size(77, 300), KINDS)


def test_at_grid_points_thresholds_equal_a_calibration() -> None:
    for users, rows in ((MIN_USERS, MIN_USERS), (80, 80), (MAX_ROWS, round(MAX_ROWS * ROWS))):
        size = Size(users, rows)
        asked = measure(REFERENCE, KINDS, size, alpha=0.01, seed=0, imitations=100)
        floors = {(name, test.method): test.floor for name, kind in KINDS.items() for test in asked_of(kind)}
        expected = {key: max(floors[key], limit) for key, limit in asked.items()}
        assert GRID.at(size, KINDS) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("a", "b", "c"), [(0.0, 4.0, 0.0), (0.0, 1.0, 4.0), (1e-3, 1.0, 4.0)])
def test_between_grid_points_thresholds_are_exact_or_slightly_high(a: float, b: float, c: float) -> None:
    """The true thresholds are sqrt(a + b / n + c / (n m)) for n users with m rows each."""

    def limit(n: float, m: float) -> float:
        return float(np.sqrt(a + b / n + c / (n * m)))

    values = np.array([[limit(n, m) for m in GRID.rows_M] for n in GRID.users_U])
    grid = ThresholdGrid(GRID.users_U, GRID.rows_M, {("hour", t.method): values for t in asked_of("numeric")})
    for n, m in product((25, 60, 150, 600, 1_500, 5_000), (1.0, 2.0, 5.0)):
        ratio = grid.at(Size(n, round(n * m)), {"hour": "numeric"})["hour", "wasserstein"] / max(0.05, limit(n, m))
        assert 1 - 1e-6 <= ratio < 1.5
        assert b != 4.0 or ratio < 1 + 1e-6


def test_columns_and_tests_outside_the_grid_have_no_threshold() -> None:
    size = Size(100, 500)
    assert GRID.at(size, KINDS | {"price": "numeric"}) == GRID.at(size, KINDS)
    assert GRID.at(size, {"hour": "categorical"}).keys() == {("hour", "missing_share_rise")}
    fewer, all_of_them = GRID.at(size, {"hour": "numeric"}), GRID.at(size, KINDS)
    assert fewer == {key: all_of_them[key] for key in fewer}, "a missing column changed another column's threshold"


def test_columns_without_values_or_variation_have_the_floor() -> None:
    odd = REFERENCE.assign(empty=None, constant=3.0, endless=np.inf)
    kinds = {"hour": "numeric", "empty": "categorical", "constant": "numeric", "endless": "numeric"}
    found = ThresholdGrid.measure(odd, kinds, imitations=20).at(Size(500, 2_000), kinds)
    assert (found["empty", "jensenshannon"], found["constant", "wasserstein"]) == (0.03, 0.05)
    assert found["endless", "wasserstein"] == 0.05 and found["endless", "missing_share_rise"] == 0.05


@pytest.mark.filterwarnings("error")
def test_a_column_that_few_users_lack_has_the_floor() -> None:
    """In a small period, usually no user lacks the column."""
    rare = REFERENCE.assign(rare=np.where(np.arange(len(REFERENCE)) < 2, np.nan, 1.0))
    grid = ThresholdGrid.measure(rare, {"rare": "numeric"}, imitations=50)
    assert grid.limits_UM["rare", "missing_share_rise"].min() < 0
    found = grid.at(Size(30, 100), {"rare": "numeric"})
    assert found["rare", "missing_share_rise"] == 0.05


SCORERS = [(name, NumericDistance if kind == "numeric" else CategoricalDistance) for name, kind in KINDS.items()]


def distance(thresholds: Thresholds, column: str) -> float:
    return thresholds[column, asked_of(KINDS[column])[-1].method]


def test_a_healthy_period_rarely_alarms_and_a_fixed_threshold_would() -> None:
    rng = np.random.default_rng(3)
    alarms = fixed = 0
    for seed in range(8):
        reference = touchpoints(rng, 300)
        limits = measure(reference, KINDS, Size(users=80, rows=640), alpha=0.05, seed=seed, imitations=200)
        for _ in range(10):
            both = pd.concat([reference, touchpoints(rng, 80)], ignore_index=True)
            in_reference = np.arange(len(both)) < len(reference)
            weights = (in_reference.astype(float), ~in_reference * 1.0)
            scores = {name: scorer(both[name])(*weights) for name, scorer in SCORERS}
            alarms += any(score >= distance(limits, name) for name, score in scores.items())
            fixed += any(score >= 0.1 for score in scores.values())
    assert alarms <= 12, "expected: 5 % of 80 periods"
    assert fixed > 60


def test_thresholds_shrink_with_users_not_with_rows() -> None:
    reference = touchpoints(np.random.default_rng(0), 400)
    few = measure(reference, KINDS, Size(users=40, rows=320), alpha=0.01, seed=0, imitations=100)
    many = measure(reference, KINDS, Size(users=200, rows=1_600), alpha=0.01, seed=0, imitations=100)
    thin = measure(reference, KINDS, Size(users=200, rows=400), alpha=0.01, seed=0, imitations=100)
    assert all(distance(many, name) < distance(few, name) for name in KINDS)
    assert distance(thin, "placement") > distance(many, "placement"), "fewer rows per user: noisier context column"
    assert distance(thin, "region") == pytest.approx(distance(many, "region"), rel=0.25), "static: hardly noisier"
    again = measure(reference, KINDS, Size(users=40, rows=320), alpha=0.01, seed=0, imitations=100)
    assert again == few


def test_a_column_with_gaps_gets_a_missing_limit_from_its_own_noise() -> None:
    reference = touchpoints(np.random.default_rng(0), 200)
    silent = pd.factorize(reference["user_id"])[0] % 3 == 0
    reference.loc[silent, "region"] = None
    limits = measure(reference, KINDS, Size(users=30, rows=240), alpha=0.01, seed=0, imitations=100)
    assert limits["region", "missing_share_rise"] > 0.1 and limits["hour", "missing_share_rise"] == 0
