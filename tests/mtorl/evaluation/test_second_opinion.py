"""Tests of the second opinion, a model of test users that checks the challenger's forecasts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtorl.artifact import artifact
from mtorl.baselines import lightgbm
from mtorl.evaluation.expected_outcomes import FEWEST_USERS, FOLDS, ExpectedOutcomes, cross_fitted, second_opinion
from mtorl.evaluation.gate import gate
from mtorl.evaluation.value_difference import value_difference
from mtorl.fitting.fit import fit_incumbent
from mtorl.log.splits import folds_of
from mtorl.window.table import WindowTable
from tests.mtorl.evaluation.segments import best_looking, doubted_log, means, moved
from tests.mtorl.window.windows_folder import STEPS, write_windows_folder


def decided(seed: int, lift: float, second: str, tested: int = 1500) -> bool:
    """Return whether the gate promotes a policy that picks the best-looking channel in each segment.

    In every segment, the second channel's true gain is higher by `lift`.
    """
    training, test = doubted_log(6000, seed, lift), doubted_log(tested, seed + 10_000, lift)
    own, other = means(training, 10.0), means(training, 30.0)
    policies = moved(best_looking(own), test), moved(np.zeros(len(own), dtype=int), test)

    def expected(learned: np.ndarray) -> ExpectedOutcomes:
        return test.expected(means(test.take(learned), 30.0))

    opinion = test.expected(other) if second == "same users" else cross_fitted(test.user, test.user, expected)
    assert opinion is not None
    opinions = [test.expected(own), opinion]
    value = value_difference(*policies, test.log, 100.0, seed, opinions, resamples=100)
    assert value["largest_weight"] is not None, "forecasts must value the rare exposures"
    return gate(value)[0] == "promote"


def test_a_policy_that_looks_best_by_chance_is_not_promoted() -> None:
    """All channels are equal, but two forecasts of the same users share their noise and agree on wrong values."""
    seeds = range(60)
    assert np.mean([decided(seed, 0.0, "same users") for seed in seeds[:20]]) >= 0.5, "such an opinion promotes chance"
    assert np.mean([decided(seed, 0.0, "other users") for seed in seeds]) <= 0.05


def test_a_better_policy_is_promoted() -> None:
    assert np.mean([decided(seed, 0.2, "other users", tested=4000) for seed in range(10)]) >= 0.8


def test_each_user_is_forecast_by_a_model_that_did_not_learn_from_them() -> None:
    users = np.array([f"u{i}" for i in np.random.default_rng(0).integers(60, size=400)], dtype=object)
    learned_from: list[set[str]] = []

    def expected(learned: np.ndarray) -> ExpectedOutcomes:
        learned_from.append(set(users[learned]))
        answer = np.full((len(users), 2), float(len(learned_from) - 1))
        return ExpectedOutcomes(answer, answer + 0.5)

    found = cross_fitted(users, users, expected)
    assert found is not None and len(found.replicates) == FOLDS
    for user, model, cost in zip(users, found.gain_BC[:, 0].astype(int), found.cost_BC[:, 1], strict=True):
        assert user not in learned_from[model] and cost == model + 0.5
    assert set.union(*learned_from) == set(users)
    np.testing.assert_array_equal(found.gain_BC[:, 0], folds_of(users, FOLDS))


def test_too_few_users_have_no_opinion() -> None:
    users = [f"u{i}" for i in range(FEWEST_USERS - 1)] * 30
    assert cross_fitted(users, users, lambda _: pytest.fail("nothing is learned")) is None


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, artifact.Artifact]:
    folder: Path = tmp_path_factory.mktemp("opinion")
    write_windows_folder(folder / "windows", STEPS, shards=1)
    return str(folder / "windows"), fit_incumbent(str(folder / "windows"), str(folder / "model"))


@pytest.mark.parametrize("most", [None, 0.5])
def test_a_second_opinion_learns_only_from_test_users(
    made: tuple[str, artifact.Artifact], monkeypatch: pytest.MonkeyPatch, most: float | None
) -> None:
    """With a large log, the second opinion learns from a sample of users and predicts for all."""
    windows, model = made
    table = WindowTable.load(windows)
    monkeypatch.setattr("mtorl.evaluation.expected_outcomes.FEWEST_USERS", 2)
    test = table.rows[table.is_in("test")]
    if most is not None:
        monkeypatch.setattr("mtorl.evaluation.expected_outcomes.MOST_TOUCHPOINTS", int(most * len(test)))
    known = WindowTable.load(windows, "test", most=int((most or 2) * len(test))).rows
    users, moments = test["user_id"].to_numpy(), table.windows("test")
    learned_from: list[set[str]] = []

    def fit(learned: Any, stopping: Any, encoder: Any, seed: int) -> lightgbm.BoostedOutcomes:
        learned_from.append(set(known["user_id"].to_numpy()[learned.rows_B]))
        assert len(stopping) == table.is_in("val").sum() or most is not None
        return lightgbm.fit_outcomes(learned, stopping, encoder, seed)

    found = second_opinion(windows, moments, users, model.encoder, fit, 0)
    assert found is not None and found.gain_BC.shape == (len(test), len(table.spec.channels))
    assert np.isfinite(found.gain_BC).all() and (found.gain_BC >= 0).all() and (found.cost_BC >= 0).all()
    for fold, learned in enumerate(learned_from):
        assert learned.isdisjoint(users[folds_of(users, FOLDS) == fold])
    assert set.union(*learned_from) == set(known["user_id"]) and (len(known) == len(test)) == (most is None)
