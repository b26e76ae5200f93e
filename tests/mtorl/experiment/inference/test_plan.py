import numpy as np
import pytest

from mtorl.experiment import messages
from mtorl.experiment.inference import plan
from mtorl.experiment.inference.plan import Population, needed_users
from mtorl.experiment.inference.statistics import compare
from mtorl.experiment.inference.sums import Floats
from mtorl.runtime.message import Words
from tests.messages import raises
from tests.mtorl.experiment.inference.rows import sums_of_arms


@pytest.fixture(autouse=True)
def few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_RUNS", (200, 200))


def clicks(users: int, rate: float | Floats = 0.3, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    decisions = 1 + rng.poisson(2.0, users)
    return np.stack([rng.binomial(decisions, rate), decisions], -1).astype(np.float64)


POPULATION = Population(clicks(5_000))


def test_a_smaller_effect_share_or_alpha_needs_more_users() -> None:
    usual = needed_users(POPULATION, 0.2, 0.5, 0.05)
    assert usual is not None and 0.8 <= usual.power < 0.9
    for effect, share, alpha in ((0.1, 0.5, 0.05), (0.2, 0.1, 0.05), (0.2, 0.5, 0.01)):
        other = needed_users(POPULATION, effect, share, alpha)
        assert other is not None and other.users > usual.users


def test_rare_large_outcomes_need_more_users_than_frequent_small_ones() -> None:
    rng = np.random.default_rng(1)
    bought = rng.random(20_000) < 0.02
    revenue = np.stack([np.where(bought, rng.lognormal(0, 1, 20_000), 0.0), np.ones(20_000)], -1)
    more, larger = (needed_users(Population(revenue, counts), 0.5, 0.5, 0.05) for counts in (True, False))
    assert more is not None and larger is not None and larger.users > more.users > 15_000


@pytest.mark.parametrize(
    ("figures", "effect", "share", "words"),
    [
        (clicks(50), 0.1, 0.5, messages.PLAN_NEEDS_USERS),
        (clicks(500, rate=0.0), 0.1, 0.5, messages.PLAN_NEEDS_USERS),
        (clicks(500), 0.0, 0.5, messages.NOT_A_SHARE),
        (clicks(500), 0.1, 1.0, messages.NOT_A_SHARE),
    ],
)
def test_an_invalid_plan_is_refused(figures: Floats, effect: float, share: float, words: Words) -> None:
    with raises(ValueError, words):
        needed_users(Population(figures), effect, share, 0.05)


def test_a_tiny_effect_has_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "MOST_USERS", 10_000)
    assert needed_users(POPULATION, 0.001, 0.5, 0.05) is None


def test_the_planned_users_give_about_the_planned_power() -> None:
    found = needed_users(POPULATION, 0.2, 0.5, 0.05)
    assert found is not None
    better = 0
    for run in range(200):
        arm = np.random.default_rng([5, run]).integers(2, size=found.users).astype(np.int8)
        figures = clicks(found.users, 0.3 * (1.0 + 0.2 * (arm == 0)), 100 + run)
        better += compare(sums_of_arms(arm, figures), alpha=0.05).ci[0] > 0
    # There is only one look at the end, so the power is lower than planned.
    assert 0.6 < better / 200 <= 0.92


@pytest.mark.parametrize("weight", [1.0, 0.1])
def test_a_part_of_users_gain_is_never_more_than_all_of_it(weight: float) -> None:
    population, rng = Population(clicks(2_000) * [weight, 1.0]), np.random.default_rng(0)
    chosen = rng.integers(2_000, size=100_000)
    part = population.part_of(chosen, 0.2, rng)
    brought = population.figures_U2[chosen, 0]
    assert part.mean() == pytest.approx(0.2 * brought.mean(), rel=0.03) and np.all(part <= brought)
