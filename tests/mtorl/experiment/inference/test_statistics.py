import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtorl.experiment.inference.statistics import (
    MIN_POSITIVE,
    MIN_USERS,
    STANDING_AT,
    TIGHTEST_AT,
    Estimate,
    Lift,
    compare,
    confidence_sequence,
    estimate,
    fixed_interval,
    one_sided_width,
    rho_squared,
)
from mtorl.experiment.inference.sums import Floats, Sums
from tests.mtorl.experiment.inference.rows import sums_at, sums_of_arms, sums_of_rows

ALPHA = 0.05


def clicks(rng: np.random.Generator, n: int, rate: float) -> Floats:
    decisions = 1 + rng.poisson(4, n)
    return np.stack([rng.binomial(decisions, rng.beta(2 * rate, 2 * (1 - rate), n)), decisions], -1).astype(float)


def sums_of(challenger: Floats, incumbent: Floats) -> Sums:
    figures = np.concatenate([challenger, incumbent])
    arm = np.repeat([0, 1], [len(challenger), len(incumbent)])
    return sums_of_arms(arm, figures)


def lift_of(challenger: Floats, incumbent: Floats, largest: float | None = None) -> Lift:
    return compare(sums_of(challenger, incumbent), alpha=ALPHA, largest=largest)


def looks(rng: np.random.Generator, n: int, lift: float, share: float = 0.5, count: int = 20) -> Estimate:
    challenger = rng.random(n) < share
    figures = np.zeros((n, 2))
    figures[challenger] = clicks(rng, int(challenger.sum()), 0.2 + lift)
    figures[~challenger] = clicks(rng, int((~challenger).sum()), 0.2)
    return looks_at(figures, challenger, count)


def looks_at(figures: Floats, challenger: npt.NDArray[np.bool_], count: int) -> Estimate:
    arm, at = (~challenger).astype(int), np.unique(np.geomspace(60, len(figures), count).astype(int))
    return estimate(sums_at(at, arm, figures))


def missed(found: Estimate, true: float) -> bool:
    low, high = confidence_sequence(found.value, found.se, found.effective_users, alpha=ALPHA)
    return bool(((low > true) | (high < true)).any())


def missed_by_the_fixed_one(found: Estimate, true: float) -> list[bool]:
    low, high = fixed_interval(found.value, found.se, alpha=ALPHA)
    return ((low > true) | (high < true)).tolist()


@pytest.mark.parametrize("lift", [0.0, 0.03])
def test_peeking_keeps_the_error_rate_of_sequences_but_not_of_fixed_intervals(lift: float) -> None:
    rng = np.random.default_rng(11)
    runs = [looks(rng, 3_000, lift) for _ in range(250)]
    assert np.mean([missed(run, lift) for run in runs]) <= ALPHA
    fixed = [missed_by_the_fixed_one(run, lift) for run in runs]
    assert np.mean([any(run) for run in fixed]) > 1.5 * ALPHA, "fixed intervals must fail, or the test proves nothing"
    assert abs(np.mean([run[-1] for run in fixed]) - ALPHA) < 0.03


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_a_small_arm_keeps_the_type_one_error(share: float) -> None:
    """In a small arm without clicks, the measured variance is 0, which must not stop the arm."""
    rng = np.random.default_rng(14)
    assert np.mean([missed(looks(rng, 10_000, 0.0, share), 0.0) for _ in range(100)]) <= 0.02


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_bots_keep_the_type_one_error(share: float) -> None:
    """A small arm that has no bot by chance looks better, but must not be shipped."""
    rng = np.random.default_rng(15)
    wrong = 0
    for _ in range(60):
        users = 1 + rng.poisson(9, 30_000)
        figures = np.stack([rng.binomial(users, 0.05), users], -1).astype(float)
        figures[rng.random(30_000) < 0.001] = 0.0, 5_000.0  # bots
        wrong += missed(looks_at(figures, rng.random(30_000) < share, 20), 0.0)
    assert wrong <= 3


def test_one_sided_bound_is_always_valid_and_tighter_than_two_sided() -> None:
    rng = np.random.default_rng(13)
    runs = [looks(rng, 2_000, 0.0) for _ in range(400)]
    widths = [one_sided_width(run.se, run.effective_users, alpha=ALPHA) for run in runs]
    assert np.mean([(run.value > width).any() for run, width in zip(runs, widths, strict=True)]) <= ALPHA
    assert one_sided_width(1.0, 1e3, alpha=ALPHA) < confidence_sequence(0.0, 1.0, 1e3, alpha=ALPHA)[1]


def test_returning_users_keep_the_error_rate() -> None:
    """All users come in the first hour and return for four weeks."""
    rng, hours = np.random.default_rng(18), np.arange(1.0, 28 * 24 + 1)
    z = rng.normal(size=(4_000, len(hours))).cumsum(1) / np.sqrt(hours)
    assert np.mean((np.abs(z) > confidence_sequence(0.0, 1.0, TIGHTEST_AT, alpha=ALPHA)[1]).any(1)) <= ALPHA


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_ratio_of_two_outcomes_keeps_the_type_one_error(share: float) -> None:
    """The ratio is the cost per click, whose denominator is 0 for users without a click."""
    rng = np.random.default_rng(16)
    users = [clicks(rng, 4_000, 0.1).T for _ in range(150)]
    runs = [np.stack([decisions * rng.gamma(2.0, 0.25, 4_000), own], -1) for own, decisions in users]
    assert np.mean([missed(looks_at(run, rng.random(4_000) < share, 20), 0.0) for run in runs]) <= ALPHA


def test_the_variance_agrees_with_a_bootstrap_of_users() -> None:
    rng = np.random.default_rng(1)
    arms = [clicks(rng, 1_000, rate) for rate in (0.2, 0.25)]
    picks = rng.integers(0, 1_000, (2, 2_000, 1_000))
    resampled = [arm[pick].sum(1) for arm, pick in zip(arms, picks, strict=True)]
    ratios = [total[:, 0] / total[:, 1] for total in resampled]
    assert lift_of(*arms).se == pytest.approx((ratios[0] - ratios[1]).std(), rel=0.06)


def ramp(rng: np.random.Generator, users: int, moving: float = 0.0) -> Sums:
    """Simulate users in two stages, with 10 % and then 50 % of them in the challenger.

    The click rate is higher by `moving` in the second stage.
    """
    point, rate = rng.random(users), rng.beta(1.0, 4.0, users)
    user, arm, stage, figures = [], [], [], []
    for number, share in enumerate((0.1, 0.5)):
        decisions = 1 + rng.poisson(3, users)
        user.append(np.arange(users))
        arm.append((point >= share).astype(np.intp))
        stage.append(np.full(users, number))
        likely = np.clip(rate + moving * number, 0.0, 1.0)
        figures.append(np.stack([rng.binomial(decisions, likely), decisions], -1).astype(float))
    return sums_of_rows(*(np.concatenate(part) for part in (user, arm, stage)), np.concatenate(figures))


def test_the_variance_over_stages_counts_a_user_once() -> None:
    rng = np.random.default_rng(2)
    found = [estimate(ramp(rng, 1_000)) for _ in range(800)]
    assert np.mean([x.se for x in found]) == pytest.approx(np.std([x.value for x in found]), rel=0.06)


def test_a_change_of_the_market_between_stages_is_no_lift() -> None:
    """Pooled stages would favour the challenger, most of whose users come in the stage with more clicks."""
    rng = np.random.default_rng(3)
    sums = ramp(rng, 20_000, moving=0.3)
    pooled = sums.totals.sum(1)
    assert pooled[0, 0] / pooled[0, 1] - pooled[1, 0] / pooled[1, 1] > 0.05
    lift = compare(sums, alpha=ALPHA)
    assert lift.ci[0] < 0.0 < lift.ci[1] and abs(lift.value) < 0.01


def test_stages_are_weighted_by_decisions_and_not_by_outcomes() -> None:
    rng = np.random.default_rng(4)
    sums = ramp(rng, 3_000)
    users, decisions, ratio = sums.users, sums.totals[..., 1], sums.totals[..., 0] / sums.totals[..., 1]
    lift = compare(sums, alpha=ALPHA)
    weights = decisions[0] * decisions[1] / decisions.sum(0)
    assert lift.value == pytest.approx(np.average(ratio[0] - ratio[1], weights=weights))
    assert lift.effective_users == pytest.approx((4 * users[0] * users[1] / users.sum(0)).sum())
    even = lift_of(clicks(rng, 500, 0.2), clicks(rng, 500, 0.2))
    assert even.effective_users == pytest.approx(1_000)


def test_vectorised_estimates_equal_single_ones() -> None:
    rng = np.random.default_rng(5)
    runs = [ramp(rng, 500) for _ in range(3)]
    together = estimate(Sums(*(np.stack([getattr(run, name) for run in runs]) for name in Sums.__dataclass_fields__)))
    for i, run in enumerate(runs):
        alone = estimate(run)
        assert (together.value[i], together.se[i]) == pytest.approx((float(alone.value), float(alone.se)))


def test_an_arm_below_the_floor_has_no_interval() -> None:
    rng = np.random.default_rng(6)
    few, many = clicks(rng, MIN_USERS - 1, 0.5), clicks(rng, 5_000, 0.1)
    for lift in (lift_of(few, many), lift_of(many, few)):
        assert math.isfinite(lift.value) and all(map(math.isnan, (*lift.ci, *lift.ci_fixed)))


def test_few_users_with_gain_widen_the_interval_and_a_dead_arm_is_found() -> None:
    dead = np.stack([np.zeros(1_000), np.ones(1_000)], -1)
    alive, full, fewer = (dead.copy() for _ in range(3))
    alive[:200, 0] = 1.0
    assert lift_of(dead[:150], alive).ci[0] < 0.0 < lift_of(dead[:150], alive).ci[1]
    assert lift_of(dead, alive).ci[1] < 0.0
    full[:MIN_POSITIVE, 0] = fewer[1:MIN_POSITIVE, 0] = 1.0
    rates = np.array([MIN_POSITIVE / 1_000, 0.2])
    both = (rates * (1 - rates) + (rates - rates.mean()) ** 2) / 999
    assert lift_of(full, alive).se == pytest.approx(math.sqrt(both.sum()))
    assert lift_of(fewer, alive).se == pytest.approx(lift_of(full, alive).se, rel=0.01)  # continuous at the floor


def test_the_variance_is_at_least_that_of_equal_arms() -> None:
    rng = np.random.default_rng(16)
    usual, varied = np.ones((500, 2)), np.ones((1_500, 2))
    usual[:, 0], varied[:, 0] = rng.normal(20.0, 1.0, 500), rng.normal(20.0, 3.0, 1_500)
    figures = np.concatenate([usual, varied])[:, 0]
    squares = float(((figures - figures.mean()) ** 2).sum())
    alike = math.sqrt(squares / 2_000 * (1 / 499 + 1 / 1_499))
    for arms in ((usual, varied), (varied, usual)):
        assert lift_of(*arms).se == pytest.approx(alike), "the small arm's own variance is not reliable"
    even = (varied[:500], usual)
    own = math.sqrt(sum(float(arm[:, 0].var(ddof=1)) / 500 for arm in even))
    assert lift_of(*even).se == pytest.approx(own, rel=0.002), "with even arms, each arm's own variance counts"


def test_a_bot_in_a_small_stage_is_no_lift() -> None:
    """The arms are equal, except for a bot in the first, short stage at 5 %."""
    users = np.array([[1_000, 130_000], [19_000, 130_000]], dtype=float)
    clicks, bot = 0.1 * users, 10_000.0
    products = np.zeros((8, 8))
    for (arm, stage), count in np.ndenumerate(clicks):
        at = 4 * arm + 2 * stage
        products[at : at + 2, at : at + 2] = [[count, count], [count, users[arm, stage]]]
    decisions = users.copy()
    decisions[0, 0] += bot
    products[1, 1] += bot**2
    sums = Sums(users, clicks, np.stack([clicks, decisions], -1), products)
    lift = compare(sums, alpha=ALPHA)
    assert lift.value < -0.005 and lift.ci[0] < 0.0 < lift.ci[1]


def test_users_are_counted_by_their_decisions() -> None:
    rng = np.random.default_rng(17)
    some, many = clicks(rng, 5 * MIN_USERS, 0.2), clicks(rng, 5_000, 0.2)
    assert math.isfinite(lift_of(some, many).se)
    ours, theirs = lift_of(some, many).arm_users
    assert 400 < ours < 500 and 4_000 < theirs < 5_000, "slightly below the number of users, as activity differs"
    # One user makes as many decisions as all others together.
    some[0, 1] = some[:, 1].sum()
    assert math.isnan(lift_of(some, many).se) and math.isnan(lift_of(many, some).se)
    assert lift_of(some, many).arm_users[0] < 10


def test_a_heavy_tail_keeps_the_type_one_error() -> None:
    """A small arm in which no very large revenue has occurred yet looks worse than it is."""
    rng = np.random.default_rng(7)
    runs = [np.stack([rng.lognormal(0.0, 2.0, 20_000), np.ones(20_000)], -1) for _ in range(80)]
    assert np.mean([missed(looks_at(run, rng.random(20_000) < 0.02, 20), 0.0) for run in runs]) <= ALPHA


def test_a_metric_without_positive_outcomes_needs_a_bound() -> None:
    nothing = np.stack([np.zeros(5_000), np.ones(5_000)], -1)
    assert all(map(math.isnan, lift_of(nothing, nothing).ci))
    low, high = lift_of(nothing, nothing, largest=1.0).ci
    assert -0.05 < low < 0.0 < high < 0.05


def test_a_constant_price_is_no_difference() -> None:
    """Rounding once caused a significant difference of 1e-17."""
    decisions = 1.0 + np.random.default_rng(19).poisson(3, (20, 2, 2_000))
    for arms in np.stack([0.1 * decisions, decisions], -1):
        assert lift_of(*arms).ci == (0.0, 0.0)


def test_known_values_of_the_confidence_sequence() -> None:
    assert rho_squared(0.05) * TIGHTEST_AT == pytest.approx(8.212, abs=5e-3)
    z = fixed_interval(0.0, 1.0, alpha=0.05)[1]
    for users, widening in ((200, 1.95), (TIGHTEST_AT, 1.66), (STANDING_AT, 1.66), (200_000, 1.82)):
        assert confidence_sequence(0.0, 1.0 / z, users, alpha=0.05)[1] == pytest.approx(widening, abs=0.01)


@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100), stages=st.integers(1, 3))
def test_the_lift_scales_with_the_unit_and_ignores_the_order_of_users(seed: int, scale: float, stages: int) -> None:
    rng = np.random.default_rng(seed)
    rows = 600 * stages
    user, stage = np.tile(np.arange(600), stages), np.repeat(np.arange(stages), 600)
    arm, figures = rng.integers(0, 2, rows), clicks(rng, rows, 0.2)
    found = estimate(sums_of_rows(user, arm, stage, figures))
    order = rng.permutation(rows)
    shuffled = estimate(sums_of_rows(user[order], arm[order], stage[order], figures[order]))
    assert (float(shuffled.value), float(shuffled.se)) == pytest.approx((float(found.value), float(found.se)))
    scaled = estimate(sums_of_rows(user, arm, stage, figures * [scale, 1.0]))
    assert float(scaled.value) == pytest.approx(scale * float(found.value), rel=1e-6, abs=1e-12)
    assert float(scaled.se) == pytest.approx(scale * float(found.se), rel=1e-6)
    swapped = estimate(sums_of_rows(user, 1 - arm, stage, figures))
    assert (float(swapped.value), float(swapped.se)) == pytest.approx((-float(found.value), float(found.se)))


def test_without_a_denominator_there_is_no_lift() -> None:
    nothing, some = np.zeros((500, 2)), np.ones((500, 2))
    for arms in ((nothing, some), (some, nothing), (nothing[:0], some), (nothing[:0], nothing[:0])):
        lift = lift_of(*arms)
        assert math.isnan(lift.value) and math.isnan(lift.ci[0]) and lift.relative is None


def test_relative_lift_is_a_ratio_or_missing() -> None:
    rng = np.random.default_rng(8)
    better, worse = clicks(rng, 500, 0.3), clicks(rng, 500, 0.2)
    relative = lift_of(better, worse).relative
    assert relative == pytest.approx((better.sum(0)[0] / better.sum(0)[1]) / (worse.sum(0)[0] / worse.sum(0)[1]) - 1)
    assert lift_of(better, worse * [0.0, 1.0]).relative is None
