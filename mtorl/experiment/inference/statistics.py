"""Estimates the lift of the challenger over the incumbent, with bounds that are valid for any number of looks.

Every metric is a ratio of two sums over users (gain per decision, cost per decision ...). Users are the unit because
they were randomised; decisions of one user are not independent. The comparison is the *difference* of the two arms'
ratios, computed within each stage of a ramp and then combined:

    ratio       R = sum(N_i) / sum(D_i)  of each arm in each stage                                  `Sums`
    lift        sum_s w_s (R_challenger,s - R_incumbent,s),  w_s ~ D_c,s D_i,s / (D_c,s + D_i,s)    `estimate`
    variance    of all stages together by the delta method, over users                              `estimate`
    intervals   fixed horizon: valid for one look at a size chosen beforehand                       `fixed_interval`
                always valid: valid at all looks together                                      `confidence_sequence`
                one-sided and always valid, for guardrails                                          `one_sided_width`

**Over a ramp.** A stage changes the arms' shares, and a user may move from the incumbent to the challenger. So arms are
only comparable within a stage. The stages are weighted as by Cochran (1954) and by Mantel and Haenszel (1959), in the
form for rates: weights depend on the arms' denominators (decisions), and never on outcomes. If weights depended on
numbers of users, a day at 25 % would weigh nearly as much as a month at 50 % with the same users every day. The sum
over the stages is one process over the whole ramp. The time of this process is the number of *effective users*:
4 n_c n_i / (n_c + n_i), summed over stages (with equal shares, the number of users). So one sequence, with one error
rate, covers all stages. The contributions of a user in several stages are added up before they are squared.

**Always valid** intervals are the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas,
"Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 52(6), 2024,
arXiv:2103.06476. The one-sided bound uses a half-normal mixture. Both cover the weighted mean of the stages' lifts.

**Small arms and heavy tails.** The sequence is valid only if the estimated variance is right. But in an arm of 15 users
without a click, the estimated variance is zero. If large revenues are rare and an arm has not had any yet, the estimate
is too small. So there are these safeguards:

- There is no interval if an arm has fewer than MIN_USERS users (Kish's effective sample size, sum(D)^2 / sum(D^2)).
- If an arm has fewer than MIN_POSITIVE users with a positive outcome, the variance that is probably missing is added.
- Users with most of an arm's decisions already have a lower weight (`heavy_users.py`). If one user still has most
  decisions in a small stage, the arm's ratio nearly equals the user's ratio, so the arm seems to have no variance. So
  deviations are taken from the ratio of both arms together, and users are assumed to vary alike in both arms.

An arm that earns nothing is still found to be worse, but later. `benchmarks/experiments.py` measures the error rate.

Two mistakes to avoid. Do not test the relative lift: with few heavy-tailed conversions, its intervals miss the true
value far more often than alpha allows. The intervals of the difference do not. Do not choose `TIGHTEST_AT` from the
data, because the intervals would then not be valid.

Shapes: A = 2 arms, challenger first; S = stages; 2 = numerator, denominator. All functions accept further leading axes,
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

# If an arm has fewer effective users, there is no interval, because estimates are not normally distributed.
MIN_USERS = 100
# If fewer users than this in an arm have a positive outcome, `_missing_variance` makes the variance larger.
MIN_POSITIVE = 150
# A lift or standard error that is below this fraction of the metric is a rounding error, and counts as 0.
ROUNDING = 1e-8

_SIGN = np.array([1.0, -1.0])[:, None]  # signs of the arms in the difference


@dataclass(frozen=True)
class Estimate:
    """The lift of the challenger over the incumbent, which is the difference of their metrics.

    Each field has the leading axes of the sums from which it was computed.
    """

    # Lift in the metric's unit. NaN if there is no stage in which both arms have decisions.
    value: Floats
    # Standard error of the lift. NaN if an arm has fewer than MIN_USERS effective users.
    se: Floats
    # Time of the confidence sequence: the number of users that would give the same information if both arms had equal
    # size.
    effective_users: Floats
    # Metric of the incumbent: the mean over the stages, with the same weights as for the lift.
    incumbent: Floats
    # Effective users of challenger and incumbent, (..., A): Kish's effective sample size of each user's number of
    # decisions.
    arm_users: Floats


@dataclass(frozen=True)
class Lift:
    """The difference between challenger and incumbent in one metric, in the metric's unit.

    `relative` is the difference as a fraction of the incumbent's metric, and is for display only. The intervals are NaN
    if there is not enough data.
    """

    effective_users: float
    value: float
    se: float
    ci: Interval
    ci_fixed: Interval
    relative: float | None
    arm_users: tuple[float, float]
    """Effective number of users of the challenger and of the incumbent. If one of them is below MIN_USERS, there is no
    interval."""


def estimate(sums: Sums, largest: float | None = None, sizes: Floats | None = None) -> Estimate:
    """Return the lift over all stages and its standard error.

    By the delta method, user i contributes (N_i - R D_i) / sum(D) to the ratio R of the user's arm in a stage. Each
    user's contributions are added up over the stages. The sum of the squares of these totals estimates the variance of
    the lift.

    Args:
        largest: Upper bound of one decision's numerator, such as 1 for a click. If no user of either arm has a positive
            outcome, the variance is computed as if such outcomes had this size. Without it, such a metric has no
            interval.
        sizes: Weights by arm and stage, (..., A, S); by default, the denominators. Pass other weights for a metric
            whose denominator is an outcome, such as clicks, because outcomes may depend on the arm.
    """
    sums = sums.with_both_arms()
    users, numerator, denominator = sums.users, sums.totals[..., NUMERATOR], sums.totals[..., DENOMINATOR]
    counts, within = users > 0, sums.within()
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.nan_to_num(4.0 * users.prod(-2) / users.sum(-2)).sum(-1)
        sizes = denominator if sizes is None else np.where(counts, sizes, 0.0)
        size = np.nan_to_num(sizes.prod(-2) / sizes.sum(-2))  # (..., S)
        weight = np.where(counts, (size / size.sum(-1, keepdims=True))[..., None, :], 0.0)  # (..., A, S)
        # Absolute change of the lift if the numerator of this arm in this stage increases by 1.
        slope = np.where(counts, weight / denominator, 0.0)
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
    """Return the factor by which the variance grows because the slopes were estimated from the same users.

    With K slopes and n users, the residuals' variance is too small by the factor 1 - K / n, and the errors of the
    slopes add the fraction K / n. So the factor is (n + K) / (n - K).
    """
    return (users + covariates) / np.maximum(users - covariates, 1.0) if covariates else 1.0


def _missing_variance(sums: Sums, within: Floats, weight: Floats, largest: float | None) -> Floats:
    """Return the variance to add for arms with fewer than MIN_POSITIVE users with a positive outcome.

    With so few users, the variance would be underestimated. So it is increased as if such an arm had MIN_POSITIVE users
    with a positive outcome. The additional users get the mean squared outcome of both arms, because one arm may have
    none.
    """
    users, positive = sums.users, sums.positive.sum(-1)  # (..., A)
    denominator, squares = sums.totals[..., DENOMINATOR], within[..., NUMERATOR, NUMERATOR]
    # Multiplying a user's numerator by this factor divides it by the arm's mean denominator per user.
    per_user = np.where(users > 0, users / denominator, 0.0)
    seen = positive.sum(-1)
    unit = np.nan if largest is None else largest * users.sum((-1, -2)) / denominator.sum((-1, -2))
    square = np.where(seen > 0, (squares * per_user**2).sum((-1, -2)) / seen, np.square(unit))
    spread = np.where(users > 0, weight**2 / users, 0.0).sum(-1) / users.sum(-1)
    missing = np.maximum(0.0, MIN_POSITIVE - positive)
    added: Floats = np.where(missing > 0, missing * spread, 0.0).sum(-1)
    return added * np.where(added > 0, square, 0.0)


def _unseen_variance(sums: Sums, within: Floats, of_user: Floats, theta: Floats, scale: Floats) -> Floats:
    """Return the variance to add so that an arm with one very busy user does not seem to have no variance.

    If a bot makes most of an arm's decisions, the arm's ratio is nearly the bot's ratio, so the bot's residual is
    nearly 0. With residuals from the ratio of both arms together, the variance is larger. This function returns the
    difference.

    Args:
        scale: Factor that converts the sum of squared residuals into the variance of the lift, (..., A, S).
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
    """Return the sum of the users' squared residuals in each arm and stage, (..., A, S)."""
    squares: Floats = (of_user * (within @ of_user[..., None])[..., 0]).sum(-1)
    return squares


TIGHTEST_AT = 2_000
"""Number of effective users at which the always-valid interval would be narrowest compared with an interval for one
look, if `STANDING_AT` did not exist. Widths hardly depend on this number."""
STANDING_AT = 20_000
"""Below this number of effective users, the width of the always-valid interval, relative to the standard error, is not
allowed to be smaller than at this number.

The always-valid interval is then 1.66 to 1.95 times as wide as an interval for one look. Without this limit, it would
be too narrow near `TIGHTEST_AT` if users return: their new decisions change the lift, although the number of users,
which is the time of the sequence, does not grow. The lift would then leave the interval more often than alpha allows.
"""


def rho_squared(alpha: float) -> float:
    """Return the parameter rho^2 of the confidence sequence, for which it is tightest at `TIGHTEST_AT` users.

    The formula contains Lambert's function W_{-1}.
    """
    branch = float(lambertw(-(alpha**2) * np.exp(-1.0), k=-1).real)
    return (-branch - 1.0) / TIGHTEST_AT


def sequence_times(users: Number, alpha: float) -> Floats:
    """Return two numbers of users, `users` and max(users, STANDING_AT), each multiplied by rho^2, (2, ...).

    Callers compute an interval for each of the two numbers, and use the wider interval.
    """
    found: Floats = np.stack([users, np.maximum(users, STANDING_AT)]) * rho_squared(alpha)
    return found


def _always_valid_width(se: Number, k: Floats, log_term: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(se * np.sqrt(2.0 * (k + 1.0) / k * log_term).max(0), dtype=np.float64)


def confidence_sequence(value: Number, se: Number, users: Number, *, alpha: float) -> tuple[Floats, Floats]:
    """Return a two-sided interval that is valid at all looks together.

    The probability that it covers the true value at *every* look is 1 - alpha.
    """
    k = sequence_times(users, alpha)
    width = _always_valid_width(se, k, np.log(np.sqrt(k + 1.0) / alpha))
    return np.subtract(value, width), np.add(value, width)


def one_sided_width(se: Number, users: Number, *, alpha: float) -> Floats:
    """Return the distance from an estimate to its one-sided always-valid bound.

    The bound comes from a martingale that, with probability 1 - alpha, stays below 1/alpha at all looks. The martingale
    is a half-normal mixture, which is at least 2/sqrt(n rho^2+1) * (exp(x^2/2) - 1), since Phi(x) >= 1 - exp(-x^2/2).
    """
    k = sequence_times(users, min(2.0 * alpha, 0.999))
    return _always_valid_width(se, k, np.log1p(np.sqrt(k + 1.0) / (2.0 * alpha)))


def fixed_interval(value: Number, se: Number, *, alpha: float) -> tuple[Floats, Floats]:
    """Return a normal interval that is valid for one look, at a number of users chosen beforehand.

    Earlier looks at the results would make it invalid.
    """
    width = float(ndtri(1.0 - alpha / 2.0)) * np.asarray(se, dtype=np.float64)
    return np.subtract(value, width), np.add(value, width)


def compare(sums: Sums, *, alpha: float, largest: float | None = None, sizes: Floats | None = None) -> Lift:
    """Return the lift with two intervals: one that is always valid, and one for a single look.

    `sums`, `largest` and `sizes` are as in `estimate`, but for one metric, without leading axes.

    Args:
        alpha: Probability that an interval misses the true lift.
    """
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
