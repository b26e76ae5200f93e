"""The verdict on an experiment: is the challenger better than the incumbent, and is that certain enough yet?

Every metric is a ratio of two sums over users (gain per decision, cost per decision ...), because the user is what
was randomised: decisions of one user are not independent. The comparison is the *difference* of the two arms' ratios.

    arm         R = sum(N_i) / sum(D_i),  var(R) by the delta method over users                    `ratio`
    lift        R_challenger - R_incumbent, with two intervals                                     `compare`
                  fixed horizon   valid for one look at a size chosen beforehand                   `fixed_interval`
                  always valid    valid at every look, so people may look whenever they like       `confidence_sequence`
    SRM         chi-square of the users in each arm against the configured weights                 `srm_p_value`
    guardrail   one-sided always-valid bounds of the harm against a margin                         `check_guardrail`
    verdict     "srm" > "guardrail" > "ship" | "stop" > "inconclusive", with one line of why       `reach_verdict`

The always-valid interval is the asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas,
"Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 52(6), 2024,
arXiv:2103.06476, with n users in both arms together; the one-sided bound comes from the half-normal mixture.

Two things are easily done wrong. The relative lift is shown but never tested: with few heavy-tailed conversions its
sequence is wrong far too often, that of the difference is not. And `tightest_at` has to be fixed before the first user
comes: choosing it from the data would void the guarantee.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import lambertw
from scipy.stats import chisquare, norm

Token = Literal["ship", "stop", "inconclusive", "srm", "guardrail"]
Interval = tuple[float, float]

SRM_ALARM = 0.001  # looked at 100 times, a chi-square at 0.001 still alarms in only 1.0-1.7 % of healthy experiments
CROSSED_ALARM = 0.01  # a salted hash moves nobody; more than stray cases means that something else assigns
MIN_USERS = 100  # below this the normal approximation under every interval is not to be trusted

_NO_INTERVAL: Interval = (math.nan, math.nan)


@dataclass(frozen=True)
class Ratio:
    """One arm's ratio metric: `value` with `variance` (of the estimate) over `users`."""

    users: int
    value: float
    variance: float


@dataclass(frozen=True)
class Lift:
    """Challenger minus incumbent, in the metric's own unit; `relative` is for reading only."""

    users: int
    value: float
    se: float
    ci: Interval
    ci_fixed: Interval
    relative: float | None


@dataclass(frozen=True)
class GuardrailCheck:
    """Harm done to a guardrail metric, bounded from both sides, against the margin that was allowed.

    "breached": even the smallest plausible harm is above the margin. "held": even the largest is below it.
    "open": the data do not say yet, and nothing ships until they do.
    """

    name: str
    harm: float
    lower: float
    upper: float
    margin: float
    state: Literal["breached", "held", "open"]


@dataclass(frozen=True)
class Verdict:
    """A token for machines and one line for people."""

    token: Token
    reason: str


def ratio(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Ratio:
    """Ratio of sums with its delta-method variance; one entry a user in both arrays.

    Linearised around the sums, user i contributes (N_i - R D_i) / mean(D) to the ratio, and those contributions are
    independent: their variance over n is the variance of the ratio.
    """
    n = np.asarray(numerator, dtype=np.float64)
    d = np.asarray(denominator, dtype=np.float64)
    if n.shape != d.shape or n.ndim != 1:
        raise ValueError(f"ratio: numerator and denominator are one entry a user, got shapes {n.shape} and {d.shape}")
    total = float(d.sum())
    if total <= 0.0 or len(n) < 2:
        return Ratio(users=len(n), value=math.nan, variance=math.nan)
    value = float(n.sum()) / total
    linearised = (n - value * d) / (total / len(n))
    return Ratio(users=len(n), value=value, variance=float(linearised.var(ddof=1)) / len(n))


def rho_squared(alpha: float, tightest_at: int) -> float:
    """The free parameter of the sequence that makes it tightest at `tightest_at` users; W_{-1} is Lambert's."""
    branch = float(lambertw(-(alpha**2) * np.exp(-1.0), k=-1).real)
    return (-branch - 1.0) / tightest_at


def _always_valid_width(se: float, users: int, rho2: float, log_term: float) -> float:
    k = users * rho2
    return float(se * np.sqrt(2.0 * (k + 1.0) / k * log_term))


def confidence_sequence(value: float, se: float, users: int, *, alpha: float, tightest_at: int) -> Interval:
    """Two-sided always-valid interval: covers the true value at *all* looks together with probability 1 - alpha."""
    if users < 2 or not math.isfinite(se):
        return _NO_INTERVAL
    rho2 = rho_squared(alpha, tightest_at)
    width = _always_valid_width(se, users, rho2, float(np.log(np.sqrt(users * rho2 + 1.0) / alpha)))
    return (value - width, value + width)


def one_sided_width(se: float, users: int, *, alpha: float, tightest_at: int) -> float:
    """Distance from the estimate to its one-sided always-valid bound.

    Half-normal mixture instead of normal: the martingale is at least 2/sqrt(n rho^2+1) * (exp(x^2/2) - 1), since
    Phi(x) >= 1 - exp(-x^2/2), and it stays below 1/alpha at all looks with probability 1 - alpha.
    """
    if users < 2 or not math.isfinite(se):
        return math.nan
    rho2 = rho_squared(min(2.0 * alpha, 0.999), tightest_at)
    log_term = float(np.log1p(np.sqrt(users * rho2 + 1.0) / (2.0 * alpha)))
    return _always_valid_width(se, users, rho2, log_term)


def fixed_interval(value: float, se: float, *, alpha: float) -> Interval:
    """Normal interval for one look at a size chosen beforehand; it does not hold if people look earlier, too."""
    if not math.isfinite(se):
        return _NO_INTERVAL
    width = float(norm.ppf(1.0 - alpha / 2.0)) * se
    return (value - width, value + width)


def compare(challenger: Ratio, incumbent: Ratio, *, alpha: float, tightest_at: int) -> Lift:
    """Lift of the challenger over the incumbent on the difference scale, with both intervals."""
    users = challenger.users + incumbent.users
    value = challenger.value - incumbent.value
    se = float(np.sqrt(challenger.variance + incumbent.variance))
    return Lift(
        users=users,
        value=value,
        se=se,
        ci=confidence_sequence(value, se, users, alpha=alpha, tightest_at=tightest_at),
        ci_fixed=fixed_interval(value, se, alpha=alpha),
        relative=value / incumbent.value if math.isfinite(value) and incumbent.value > 0.0 else None,
    )


def srm_p_value(users: Mapping[str, int], weights: Mapping[str, float]) -> float:
    """P-value of a sample ratio mismatch: are the arms filled as the experiment file says?

    Args:
        users: distinct users seen in each arm.
        weights: configured share of each arm (any positive scale).

    Returns:
        Chi-square p-value; 0.0 when an arm that should be empty has users; 1.0 when there is nothing to compare.
    """
    arms = [arm for arm, weight in weights.items() if weight > 0.0]
    if any(count > 0 and arm not in arms for arm, count in users.items()):
        return 0.0
    observed = np.array([users.get(arm, 0) for arm in arms], dtype=np.float64)
    share = np.array([weights[arm] for arm in arms], dtype=np.float64)
    if len(arms) < 2 or observed.sum() == 0.0:
        return 1.0
    return float(chisquare(observed, observed.sum() * share / share.sum()).pvalue)


def check_guardrail(
    name: str, lift: Lift, *, direction: Literal["up", "down"], margin: float, alpha: float, tightest_at: int
) -> GuardrailCheck:
    """Bound the harm of the challenger on one guardrail metric.

    Args:
        name: name of the metric.
        lift: challenger minus incumbent of that metric.
        direction: where the metric should go: "up" = more is better, "down" = less is better.
        margin: harm that is accepted, in the metric's own unit, never negative.
        alpha: error rate of each one-sided bound; divide it by the number of guardrails that are watched together.
        tightest_at: users at which the bounds are tightest.
    """
    if margin < 0.0:
        raise ValueError(f"guardrail {name!r}: margin is {margin}, but the accepted harm is never negative")
    value = lift.value if direction == "down" else -lift.value
    width = one_sided_width(lift.se, lift.users, alpha=alpha, tightest_at=tightest_at)
    state: Literal["breached", "held", "open"] = "open"
    if lift.users >= MIN_USERS and value - width > margin:
        state = "breached"
    elif lift.users >= MIN_USERS and value + width <= margin:
        state = "held"
    return GuardrailCheck(name, value, value - width, value + width, margin, state)


def reach_verdict(
    primary: Lift,
    *,
    srm_p: float,
    guardrails: Sequence[GuardrailCheck] = (),
    crossed_share: float = 0.0,
    hours: float = math.inf,
    min_hours: float = 0.0,
) -> Verdict:
    """Turn the figures into one token. The rules are in order: where one applies, the later ones do not count.

    A mismatch of the arms makes every number void; a breached guardrail is harm whatever the gain; then the
    always-valid interval of the primary metric decides. A loss needs nothing else. A win ships only when every
    guardrail holds and the experiment has run as long as planned: the interval allows for early looks, but not for a
    weekend that the experiment has not seen yet.

    Args:
        primary: lift of the primary metric.
        srm_p: p-value of the sample ratio mismatch.
        guardrails: all guardrails of the experiment.
        crossed_share: share of users who were seen in two arms.
        hours: hours between the first and the last decision.
        min_hours: hours that the experiment was planned to run at least.
    """
    low, high = primary.ci
    if srm_p < SRM_ALARM:
        return Verdict("srm", f"users are not split as configured (p = {srm_p:.2g} < {SRM_ALARM}): no number counts")
    if crossed_share > CROSSED_ALARM:
        return Verdict(
            "inconclusive", f"{crossed_share:.1%} of the users were seen in two arms: assignment is not sticky"
        )
    for check in guardrails:
        if check.state == "breached":
            return Verdict(
                "guardrail", f"{check.name} is worse by at least {check.lower:.4g}, and {check.margin:.4g} was allowed"
            )
    if primary.users < MIN_USERS:
        return Verdict("inconclusive", f"{primary.users} users so far; nothing is read below {MIN_USERS}")
    if not math.isfinite(low):
        return Verdict("inconclusive", "an arm has no decision that can be evaluated")
    if high < 0.0:
        return Verdict("stop", f"the challenger is worse: the always-valid interval ends at {high:+.4g}, below zero")
    if low <= 0.0:
        return Verdict("inconclusive", f"the always-valid interval [{low:+.4g}, {high:+.4g}] contains zero")
    still_open = [check.name for check in guardrails if check.state == "open"]
    if still_open:
        return Verdict(
            "inconclusive", f"the challenger is better, but not yet proven within margin: {', '.join(still_open)}"
        )
    if hours < min_hours:
        return Verdict("inconclusive", f"the challenger is better after {hours:.1f} of at least {min_hours:g} hours")
    return Verdict("ship", f"the challenger is better: the always-valid interval starts at {low:+.4g}, above zero")
