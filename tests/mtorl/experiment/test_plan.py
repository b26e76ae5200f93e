"""How many users an experiment needs: more for less, and about as many as it then takes."""

from __future__ import annotations

import numpy as np
import pytest

from mtorl.experiment import plan
from mtorl.experiment.plan import Population, needed_users
from mtorl.experiment.statistics import compare
from mtorl.experiment.sums import Floats, Sums


@pytest.fixture(autouse=True)
def few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_RUNS", (200, 200))


def clicks(users: int, rate: float = 0.3, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    decisions = 1 + rng.poisson(2.0, users)
    return np.stack([rng.binomial(decisions, rate), decisions], -1).astype(np.float64)


POPULATION = Population(clicks(5_000))


def test_a_smaller_effect_a_smaller_share_and_a_surer_answer_take_more_users() -> None:
    usual = needed_users(POPULATION, 0.2, 0.5, 0.05)
    assert usual is not None and 0.8 <= usual.power < 0.9
    for effect, share, alpha, power in ((0.1, 0.5, 0.05, 0.8), (0.2, 0.1, 0.05, 0.8), (0.2, 0.5, 0.01, 0.8),
                                        (0.2, 0.5, 0.05, 0.95)):  # fmt: skip
        other = needed_users(POPULATION, effect, share, alpha, power=power)
        assert other is not None and other.users > usual.users


def test_the_same_seed_plans_the_same() -> None:
    assert needed_users(POPULATION, 0.2, 0.5, 0.05) == needed_users(POPULATION, 0.2, 0.5, 0.05)


def test_as_many_users_find_it_about_as_often() -> None:
    found = needed_users(POPULATION, 0.2, 0.5, 0.05)
    assert found is not None
    better = 0
    for run in range(200):
        rows, half = np.arange(found.users), found.users // 2
        arms = [clicks(half, 0.36, 10_000 + run), clicks(found.users - half, 0.3, 20_000 + run)]
        arm, stage = (rows >= half).astype(np.int8), np.zeros(found.users, dtype=np.int8)
        better += compare(Sums.of_rows(rows, arm, stage, np.concatenate(arms)), alpha=0.05, tightest_at=2_000).ci[0] > 0
    assert 0.6 < better / 200 <= 0.92  # the last look alone finds less than all looks


def test_rare_large_outcomes_take_more_users_than_frequent_small_ones() -> None:
    rng = np.random.default_rng(1)
    bought = rng.random(20_000) < 0.02
    revenue = np.stack([np.where(bought, rng.lognormal(0, 1, 20_000), 0.0), np.ones(20_000)], -1)
    more, larger = (needed_users(Population(revenue, counts), 0.5, 0.5, 0.05) for counts in (True, False))
    assert more is not None and larger is not None and larger.users > more.users > 15_000


@pytest.mark.parametrize(
    ("figures", "effect", "share", "words"),
    [
        (clicks(50), 0.1, 0.5, "100 users, and some gain, are needed"),
        (clicks(500, rate=0.0), 0.1, 0.5, "some gain"),
        (clicks(500), 0.0, 0.5, "effect"),
        (clicks(500), 0.1, 1.0, "share"),
    ],
)
def test_what_can_not_be_planned_is_said(figures: Floats, effect: float, share: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        needed_users(Population(figures), effect, share, 0.05)


def test_an_effect_that_nobody_could_wait_for_has_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "MOST_USERS", 10_000)
    assert needed_users(POPULATION, 0.001, 0.5, 0.05) is None
