"""Tests that regression adjustment narrows the interval but keeps the lift and the error rate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtorl.experiment.inference.adjustment import figures_with, standardised
from mtorl.experiment.inference.statistics import Estimate, confidence_sequence, estimate
from mtorl.experiment.inference.sums import Floats, Sums, UserSums
from tests.mtorl.experiment.inference.rows import sums_at, sums_of_arms

ALPHA = 0.05


def users(rng: np.random.Generator, n: int, lift: float = 0.0, share: float = 0.5) -> tuple[np.ndarray, Floats, Floats]:
    """Return n users' arms, and their clicks and decisions during and before the experiment."""
    rate = rng.beta(1.0, 4.0, n)
    arm = (rng.random(n) >= share).astype(np.intp)
    decisions, before = 1 + rng.poisson(9, n), 1 + rng.poisson(29, n)
    clicks = rng.binomial(decisions, np.where(arm == 0, np.minimum(rate + lift, 1.0), rate))
    past = np.stack([rng.binomial(before, rate), before], -1).astype(float)
    past[rng.random(n) < 0.2] = np.nan
    return arm, np.stack([clicks, decisions], -1).astype(float), past


def test_the_adjustment_equals_least_squares() -> None:
    """With one decision per user, the adjusted lift is the coefficient of a least squares fit."""
    rng = np.random.default_rng(1)
    arm, x = rng.integers(0, 2, 3_000), rng.normal(size=(3_000, 2))
    y = 2.0 + x @ [1.0, -0.5] + 0.3 * (arm == 0) + rng.normal(size=3_000)
    found = estimate(sums_of_arms(arm, figures_with(np.stack([y, np.ones(3_000)], -1), x)))
    design = np.column_stack([np.ones(3_000), arm == 0, x])
    slopes, *_ = np.linalg.lstsq(design, y, rcond=None)
    errors = y - design @ slopes
    bread = np.linalg.inv(design.T @ design)
    robust = bread @ (design.T * errors**2) @ design @ bread
    assert found.value == pytest.approx(slopes[1])
    assert found.se == pytest.approx(np.sqrt(robust[1, 1]), rel=0.01)


def test_adjustment_keeps_the_lift_and_narrows_the_interval() -> None:
    rng = np.random.default_rng(2)
    arm, figures, past = users(rng, 20_000, lift=0.02)
    without, adjusted = (
        estimate(sums_of_arms(arm, figures_with(figures, x))) for x in (past[:, :0], standardised(past))
    )
    assert adjusted.se**2 < 0.75 * without.se**2
    assert abs(adjusted.value - without.value) < 3.0 * without.se
    assert adjusted.effective_users == without.effective_users


def test_a_constant_covariate_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    arm, figures, _ = users(rng, 5_000)
    without = estimate(sums_of_arms(arm, figures))
    for x in (np.zeros((5_000, 1)), np.full((5_000, 2), 7.0)):
        found = estimate(sums_of_arms(arm, figures_with(figures, x)))
        assert found.value == pytest.approx(without.value)
        assert found.se == pytest.approx(without.se, rel=1e-3)


@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3), seed=st.integers(0, 20))
@settings(max_examples=25)
def test_units_of_a_covariate_do_not_matter(scale: float, shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arm, figures, past = users(rng, 800)
    one, other = (
        estimate(sums_of_arms(arm, figures_with(figures, standardised(x)))) for x in (past, past * scale + shift)
    )
    assert one.value == pytest.approx(other.value, abs=1e-9) and one.se == pytest.approx(other.se, rel=1e-6)


def test_repeated_covariates_count_once() -> None:
    rng = np.random.default_rng(4)
    arm, figures, past = users(rng, 5_000)
    once, twice = (standardised(x) for x in (past[:, :1], np.repeat(past[:, :1], 2, 1)))
    one, other = (estimate(sums_of_arms(arm, figures_with(figures, x))) for x in (once, twice))
    assert one.value == pytest.approx(other.value) and one.se == pytest.approx(other.se, rel=1e-3)


def test_a_user_without_a_past_is_marked() -> None:
    found = standardised(np.array([[1.0, 5.0], [3.0, np.nan], [np.nan, np.nan]]))
    assert found.shape == (3, 4)
    assert found[:, 2].tolist() == [0.0, 0.0, 1.0] and found[:, 3].tolist() == [0.0, 1.0, 1.0]
    assert found[2, :2].tolist() == [0.0, 0.0]
    assert standardised(np.ones((3, 1))).tolist() == [[0.0], [0.0], [0.0]]


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_peeking_keeps_the_error_rate(share: float) -> None:
    rng = np.random.default_rng(5)
    looks = np.unique(np.geomspace(100, 5_000, 20).astype(np.int64))
    wrong = 0
    for _ in range(200):
        arm, figures, past = users(rng, 5_000, share=share)
        found = estimate(sums_at(looks, arm, figures_with(figures, standardised(past))))
        wrong += _excludes_zero(found)
    assert wrong / 200 <= ALPHA


def _excludes_zero(found: Estimate) -> bool:
    low, high = confidence_sequence(found.value, found.se, found.effective_users, alpha=ALPHA)
    return bool(((low > 0.0) | (high < 0.0)).any())


def test_sums_added_by_parts_equal_those_of_all_users() -> None:
    """Users may be in several stages and arms, but all of a user's rows are in one part."""
    rng = np.random.default_rng(7)
    values, present = rng.normal(size=(200, 2, 2, 3)), rng.random((200, 2, 2)) < 0.6
    values *= present[..., None]
    together = UserSums("abc", stages=2, arms=2, numerators={"a": [("a", 1.0)]})
    for users in np.array_split(np.arange(200), 3):
        user, arm, stage = np.nonzero(present[users])
        together.add(user.astype(np.uint64), 2 * stage + arm, values[users][user, arm, stage].T)
    found = together.of((1, 0), [0, 1], np.broadcast_to(np.eye(3), (2, 2, 3, 3)), "a")
    expected = Sums.of_users(values[:, ::-1], present[:, ::-1])
    for name in Sums.__dataclass_fields__:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-9)
