"""How many users an experiment needs: more for less, and about as many as it then takes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtorl.experiment.inference import plan
from mtorl.experiment.inference.adjustment import figures_with, standardised
from mtorl.experiment.inference.plan import Population, needed_users
from mtorl.experiment.inference.statistics import compare
from mtorl.experiment.inference.sums import Floats
from tests.mtorl.experiment.inference.rows import sums_of_arms


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
    for effect, share, alpha in ((0.1, 0.5, 0.05), (0.2, 0.1, 0.05), (0.2, 0.5, 0.01)):
        other = needed_users(POPULATION, effect, share, alpha)
        assert other is not None and other.users > usual.users


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


def known_clicks(users: int, seed: int = 3, more: float | Floats = 0.0) -> tuple[Floats, Floats]:
    """Users who differ, and of each what it did before."""
    rng = np.random.default_rng(seed)
    rate = 0.8 * rng.beta(0.5, 1.5, users)
    figures = np.stack([rng.binomial(5, rate * (1.0 + more)), np.full(users, 5)], -1).astype(np.float64)
    return figures, np.stack([rng.binomial(20, rate), np.full(users, 20.0)], -1).astype(np.float64)


def test_what_is_known_of_the_users_saves_as_many_as_it_explains() -> None:
    figures, known = known_clicks(20_000)
    population = Population(figures, known_UK=known)
    adjusted, usual = (needed_users(Population(figures, known_UK=told), 0.1, 0.5, 0.05) for told in (known, None))
    assert adjusted is not None and usual is not None and 0.5 < population.explained < 0.8
    assert adjusted.users / usual.users == pytest.approx(1.0 - population.explained, rel=0.15)


@pytest.mark.parametrize("covariates", [False, True])
def test_as_many_users_find_it_about_as_often(covariates: bool) -> None:
    figures, known = known_clicks(20_000)
    found = needed_users(Population(figures, known_UK=known if covariates else None), 0.2, 0.5, 0.05)
    assert found is not None
    better = 0
    for run in range(200):
        arm = np.random.default_rng([5, run]).integers(2, size=found.users).astype(np.int8)
        new, told = known_clicks(found.users, 100 + run, 0.2 * (arm == 0))
        with_known = figures_with(new, standardised(told)) if covariates else new
        better += compare(sums_of_arms(arm, with_known), alpha=0.05).ci[0] > 0
    assert 0.6 < better / 200 <= 0.92  # the last look alone finds less than all looks


@given(seed=st.integers(0, 2**32 - 1), columns=st.integers(1, 20))
@settings(max_examples=25)
def test_what_says_nothing_explains_nothing(seed: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(300, columns))
    noise[rng.random(300) < 0.2] = np.nan
    assert Population(clicks(300, seed=seed), known_UK=noise).explained < 0.06


def test_users_of_whom_nothing_is_known_do_no_harm() -> None:
    figures, known = known_clicks(2_000)
    known[::2] = np.nan
    half = Population(figures, known_UK=known).explained
    assert 0.5 < half / Population(*known_clicks(2_000)[:1], known_UK=known_clicks(2_000)[1]).explained * 2 < 1.5
    nothing = Population(figures, known_UK=np.full((2_000, 3), np.nan))
    assert nothing.explained < 0.01 and needed_users(nothing, 0.2, 0.5, 0.05) is not None


def test_others_are_like_a_user_in_what_is_known() -> None:
    population, rng = Population(*known_clicks(2_000)[:1], known_UK=known_clicks(2_000)[1]), np.random.default_rng(0)
    chosen = rng.integers(2_000, size=50_000)
    assert population.forecast_U is not None
    forecast, others = population.forecast_U, population.others_like(chosen, rng)
    assert np.corrcoef(forecast[chosen], forecast[others])[0, 1] > 0.98 and len(np.unique(others)) == 2_000
    assert set(others[chosen == population._order_U[0]]) <= set(population._order_U[:21])  # reflected at the end


@pytest.mark.parametrize("weight", [1.0, 0.1])
def test_a_part_of_what_users_bring(weight: float) -> None:
    population, rng = Population(clicks(2_000) * [weight, 1.0]), np.random.default_rng(0)
    chosen = rng.integers(2_000, size=100_000)
    part = population.part_of(chosen, 0.2, rng)
    brought = population.figures_U2[chosen, 0]
    assert part.mean() == pytest.approx(0.2 * brought.mean(), rel=0.03) and np.all(part <= brought)
