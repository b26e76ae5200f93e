"""Lift of the challenger over the incumbent, with bounds that hold however often people look.

Every metric is a ratio of two sums over users (gain per decision, cost per decision ...), because the user is what was
randomised: decisions of one user are not independent. The comparison is the *difference* of the two arms' ratios, taken
within each stage of a ramp and then combined:

    ratio       R = sum(N_i) / sum(D_i)  of each arm in each stage                                  `Sums`
    lift        sum_s w_s (R_challenger,s - R_incumbent,s),  w_s ~ D_c,s D_i,s / (D_c,s + D_i,s)    `estimate`
    variance    of all stages together by the delta method, over users                              `estimate`
    intervals   fixed horizon: valid for one look at a size chosen beforehand                       `fixed_interval`
                always valid: at every look, so people may look whenever they like                 `confidence_sequence`
                one-sided and always valid, for guardrails                                          `one_sided_width`

**Over a ramp.** A stage changes the arms' shares, and a user may leave the incumbent for the challenger, so arms are
only comparable within a stage. The weights are those of Cochran (1954) and of Mantel and Haenszel (1959), as they are
used for rates: they depend on the arms' denominators (decisions), and never on outcomes. By numbers of users, a day at
25 % would weigh nearly as much as a month at 50 % where the same users come every day. The weighted sum is one process
over the whole ramp, with the *effective users* 4 n_c n_i / (n_c + n_i), summed over stages, as its time (at equal
shares they are the users). So one sequence, with one error rate, covers all stages. A user of several stages is one
user: contributions are added up before they are squared.

**Always valid** is the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform
central limit theory and asymptotic confidence sequences", Annals of Statistics 52(6), 2024, arXiv:2103.06476; the
one-sided bound comes from the half-normal mixture. It covers the weighted mean of the stages' lifts.

**Small arms and heavy tails.** The sequence trusts the estimated variance. An arm of 15 users without a click has none,
and an arm that has not met its rare large revenues yet has too little. So no interval exists below MIN_USERS in each
arm (by Kish's effective sample size, sum(D)^2 / sum(D^2)), and where an arm has fewer than MIN_POSITIVE users with a
positive outcome, the missing ones are added to its variance. Users who make most of an arm's decisions come here with a
weight (`heavy_users.py`). Where one of them makes most of a small stage's, the arm's ratio is its own, and the arm
looks certain. So users vary about the ratio of both arms, and the difference varies at least as much as if users varied
alike in both. An arm that is truly dead is still found, only later.
`benchmarks/experiments.py` shows that this keeps the error rate.

Two things are easily done wrong. The relative lift is shown but never tested: with few heavy-tailed conversions its
sequence is wrong far too often, that of the difference is not. And `TIGHTEST_AT` may not follow from the data: that
would void the guarantee.

Shapes: A = 2 arms, challenger first; S = stages; 2 = numerator, denominator. All functions take further leading axes,
for many experiments or looks at once.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import lambertw, ndtri

from mtorl.experiment.inference.adjustment import covariate_means, residual, slopes
from mtorl.experiment.inference.sums import COVARIATES, DENOMINATOR, NUMERATOR, Floats, Sums

Number = float | Floats
Interval = tuple[float, float]

MIN_USERS = 100  # effective users in each arm: below, nothing under an interval is normal, and no ratio is linear
MIN_POSITIVE = 150  # users with a positive outcome in each arm: the missing ones add their variance
ROUNDING = 1e-8  # share of the metric up to which a lift, or its error, is nothing but rounding, as of a constant price

_SIGN = np.array([1.0, -1.0])[:, None]  # of the arms in the difference


@dataclass(frozen=True)
class Estimate:
    """Challenger minus incumbent; every field has the leading axes of the sums."""

    value: Floats  # in the metric's own unit; NaN without a stage in which both arms have decisions
    se: Floats  # NaN below MIN_USERS
    effective_users: Floats  # users of a half-half experiment that would know as much: the time of the sequence
    incumbent: Floats  # the incumbent's metric, weighted over stages like the lift
    arm_users: Floats  # effective users of challenger and incumbent, by their decisions (..., A)


@dataclass(frozen=True)
class Lift:
    """Challenger minus incumbent of one metric, in its own unit; `relative` is for reading only.

    The intervals are NaN where there is too little to say anything.
    """

    effective_users: float
    value: float
    se: float
    ci: Interval
    ci_fixed: Interval
    relative: float | None
    arm_users: tuple[float, float]
    """Effective users of challenger and incumbent: below MIN_USERS of either there is no interval."""


def estimate(sums: Sums, largest: float | None = None, sizes: Floats | None = None) -> Estimate:
    """The lift over all stages and its standard error.

    Linearised around the sums, user i contributes (N_i - R D_i) / sum(D) to its arm's ratio in a stage, and these
    contributions, weighted over stages and added up, are independent between users: the sum of their squares is the
    variance. It is a quadratic form of the sums of products.

    Args:
        largest: What the numerator of one decision is at most. Where no user of either arm has a positive outcome, it
            says how large one could have been; without it, nothing is known of such a metric.
        sizes: Weights of stages, of each arm and stage, (..., A, S), where the denominator is not decisions but an
            outcome, which the arm may change. By default, the denominators.
    """
    sums = sums.with_both_arms()
    users, numerator, denominator = sums.users, sums.totals[..., NUMERATOR], sums.totals[..., DENOMINATOR]
    counts, within = users > 0, sums.within()
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.nan_to_num(4.0 * users.prod(-2) / users.sum(-2)).sum(-1)
        sizes = denominator if sizes is None else np.where(counts, sizes, 0.0)
        size = np.nan_to_num(sizes.prod(-2) / sizes.sum(-2))  # (..., S)
        weight = np.where(counts, (size / size.sum(-1, keepdims=True))[..., None, :], 0.0)  # (..., A, S)
        slope = np.where(counts, weight / denominator, 0.0)  # what a unit of the numerator adds
        ratio = np.where(counts, numerator / denominator, 0.0)
        unbiased = np.sqrt(np.where(users > 1, users / (users - 1.0), 1.0))
        theta, means = slopes(sums, within, ratio, weight), covariate_means(sums)
        of_user = residual(ratio, np.where(counts, denominator / users, 0.0), means, theta)
        gradient = of_user * (slope * _SIGN * unbiased)[..., None]
        flat = gradient.reshape(*gradient.shape[:-3], -1)
        variance = np.maximum(0.0, np.einsum("...i,...ij,...j->...", flat, sums.products, flat))
        variance = variance + _unseen_variance(sums, within, of_user, theta, (slope * unbiased) ** 2)
        effective = denominator.sum(-1) ** 2 / within[..., DENOMINATOR, DENOMINATOR].sum(-1)  # (..., A)
        variance = variance * _learnt(effective.sum(-1), theta.shape[-1])
        variance = variance + _missing_variance(sums, within, weight, largest)
        enough = (effective >= MIN_USERS).all(-1)
    adjusted = ratio - (theta[..., None, None, :] * means).sum(-1)
    value, se = (_SIGN * weight * adjusted).sum((-1, -2)), np.sqrt(variance)
    exact = ROUNDING * (weight * np.abs(ratio)).sum((-1, -2))
    return Estimate(
        value=np.where(total > 0, np.where(np.abs(value) <= exact, 0.0, value), np.nan),
        se=np.where(enough, np.where(se <= exact, 0.0, se), np.nan),
        effective_users=total,
        incumbent=(weight * ratio)[..., 1, :].sum(-1),
        arm_users=np.nan_to_num(effective),
    )


def _learnt(users: Floats, covariates: int) -> Number:
    """Factor of the variance since the slopes of covariates were learnt from the same users.

    Residuals are smaller by 1 - K / n than those about the true slopes, and the slopes' own error adds K / n.
    """
    return (users + covariates) / np.maximum(users - covariates, 1.0) if covariates else 1.0


def _missing_variance(sums: Sums, within: Floats, weight: Floats, largest: float | None) -> Floats:
    """Variance that the users with a positive outcome would add who are missing to MIN_POSITIVE in an arm.

    The size of a positive outcome is learned from both arms: an arm that has none can't say. The missing users are
    spread over the stages like the arm's users. No covariate knows of them.
    """
    users, positive = sums.users, sums.positive.sum(-1)  # (..., A)
    denominator, squares = sums.totals[..., DENOMINATOR], within[..., NUMERATOR, NUMERATOR]
    per_user = np.where(users > 0, users / denominator, 0.0)  # makes a numerator a contribution to the mean
    seen = positive.sum(-1)
    unit = np.nan if largest is None else largest * users.sum((-1, -2)) / denominator.sum((-1, -2))
    square = np.where(seen > 0, (squares * per_user**2).sum((-1, -2)) / seen, np.square(unit))
    spread = np.where(users > 0, weight**2 / users, 0.0).sum(-1) / users.sum(-1)
    missing = np.maximum(0.0, MIN_POSITIVE - positive)
    added: Floats = np.where(missing > 0, missing * spread, 0.0).sum(-1)
    return added * np.where(added > 0, square, 0.0)


def _unseen_variance(sums: Sums, within: Floats, of_user: Floats, theta: Floats, scale: Floats) -> Floats:
    """Variance to add so that users vary about both arms' common ratio, and equally in both arms.

    Where a bot makes most of an arm's decisions in a stage, the arm's own ratio is the bot's: about it, the bot hardly
    varies. Of a stage's users alike in both arms, each arm has its share of the squares; that is a floor of the
    variance of the difference, since a floor of each arm would count a heavy tail in one of them as if both had it.

    Args:
        scale: Variance that a unit of squares makes, (..., A, S).
    """
    users, both = sums.users.sum(-2, keepdims=True), sums.totals.sum(-3, keepdims=True)
    ratio = np.nan_to_num(both[..., NUMERATOR] / both[..., DENOMINATOR])
    per_user = np.nan_to_num(both[..., DENOMINATOR] / users)
    means = np.nan_to_num(both[..., COVARIATES:] / users[..., None])
    squares = _squares(within, residual(ratio, per_user, means, theta))
    share = np.nan_to_num(sums.users / users)
    about_both = np.maximum((scale * squares).sum(-2), (scale * share).sum(-2) * squares.sum(-2))
    unseen: Floats = np.maximum(0.0, about_both - (scale * _squares(within, of_user)).sum(-2)).sum(-1)
    return unseen


def _squares(within: Floats, of_user: Floats) -> Floats:
    """Sums over users of their squared residuals in each arm and stage, (..., A, S)."""
    squares: Floats = (of_user * (within @ of_user[..., None])[..., 0]).sum(-1)
    return squares


TIGHTEST_AT = 2_000
"""Effective users at which a sequence is tightest, before `STANDING_AT`; its width hardly depends on this number."""
STANDING_AT = 20_000
"""Effective users below which no interval is narrower than at this number: 1.66 to 1.95 times that of one look.

Users who come back bring information while their number, the time of the sequence, stands. Where a sequence is
tightest, their lift would leave it more often than alpha allows.
"""


def rho_squared(alpha: float) -> float:
    """The free parameter of the sequence that makes it tightest at `TIGHTEST_AT` users; W_{-1} is Lambert's."""
    branch = float(lambertw(-(alpha**2) * np.exp(-1.0), k=-1).real)
    return (-branch - 1.0) / TIGHTEST_AT


def sequence_times(users: Number, alpha: float) -> Floats:
    """Times of the sequence, (2, ...), both of which have to agree: of these users, and of `STANDING_AT` or more."""
    found: Floats = np.stack([users, np.maximum(users, STANDING_AT)]) * rho_squared(alpha)
    return found


def _always_valid_width(se: Number, k: Floats, log_term: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(se * np.sqrt(2.0 * (k + 1.0) / k * log_term).max(0), dtype=np.float64)


def confidence_sequence(value: Number, se: Number, users: Number, *, alpha: float) -> tuple[Floats, Floats]:
    """Two-sided always-valid interval: covers the true value at *all* looks with probability 1 - alpha."""
    k = sequence_times(users, alpha)
    width = _always_valid_width(se, k, np.log(np.sqrt(k + 1.0) / alpha))
    return np.subtract(value, width), np.add(value, width)


def one_sided_width(se: Number, users: Number, *, alpha: float) -> Floats:
    """Distance from the estimate to its one-sided always-valid bound.

    Half-normal mixture instead of normal: the martingale is at least 2/sqrt(n rho^2+1) * (exp(x^2/2) - 1), since
    Phi(x) >= 1 - exp(-x^2/2), and it stays below 1/alpha at all looks with probability 1 - alpha.
    """
    k = sequence_times(users, min(2.0 * alpha, 0.999))
    return _always_valid_width(se, k, np.log1p(np.sqrt(k + 1.0) / (2.0 * alpha)))


def fixed_interval(value: Number, se: Number, *, alpha: float) -> tuple[Floats, Floats]:
    """Normal interval for one look at a size chosen beforehand; it does not hold if people look earlier, too."""
    width = float(ndtri(1.0 - alpha / 2.0)) * np.asarray(se, dtype=np.float64)
    return np.subtract(value, width), np.add(value, width)


def compare(sums: Sums, *, alpha: float, largest: float | None = None, sizes: Floats | None = None) -> Lift:
    """Lift on the difference scale, with both intervals; arguments as of `estimate`, without leading axes."""
    found = estimate(sums, largest, sizes)
    value, se, users, incumbent = (float(x) for x in (found.value, found.se, found.effective_users, found.incumbent))
    low, high = confidence_sequence(value, se, users, alpha=alpha)
    fixed_low, fixed_high = fixed_interval(value, se, alpha=alpha)
    return Lift(
        effective_users=users,
        value=value,
        se=se,
        ci=(float(low), float(high)),
        ci_fixed=(float(fixed_low), float(fixed_high)),
        relative=value / incumbent if math.isfinite(value) and incumbent > 0.0 else None,
        arm_users=(float(found.arm_users[0]), float(found.arm_users[1])),
    )
