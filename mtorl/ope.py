"""Off-policy value of a challenger against the incumbent, from a log that neither wrote, and the gate that reads it.

    value = value_difference(challenger, incumbent, gain_B, cost_B, propensity_B, channel_B, users_B, 0.5, seed=0)
    decision, reason = gate(value, min_lift=0.0)

A logged row came about by choosing channel a with propensity p. A policy that would have chosen a with probability
pi(a|s) counts that row w = pi(a|s) / p times; where it would choose a and then not spend, gain and cost count as zero:

    G = sum(w * expose * gain) / sum(w)     gain per opportunity (self-normalised, "SNIPS")
    W = sum(w * expose * cost) / sum(w)     cost per opportunity
    V = G * min(1, b / W)                   gain per opportunity under a budget of b per opportunity

V is what makes arms comparable: both get the same b, and an arm that would spend more is thinned at random until it
fits. Earning more by spending more is no merit. Intervals resample *users*, whose rows resemble each other; both arms
are computed on the same resample, so the difference keeps their correlation.

How far to trust it:

- effective sample size, sum(w)^2 / sum(w^2): the number of equally weighted rows that would know as much;
- overlap, mean(min(1, w)): estimates 1 - total variation distance between the policy and the logging policy;
- mean weight: 1, up to noise, if the propensities are right. Estimated propensities that miss what the logging policy
  looked at show here.

What it cannot see: other choices at earlier steps would have led to other states. It is a one-step estimate at the
states of the log, for policies whose journeys look much like the logged ones.

Shapes: B rows, C channels, U users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtorl.decision import Bools, Floats
from mtorl.evaluation import UserResamples, interval

ARMS = ("challenger", "incumbent")


@dataclass(frozen=True)
class PolicyOnLog:
    """What a policy would do at each logged row; `decision.action_probabilities` gives both parts."""

    probs_BC: Floats
    expose_BC: Bools

    def __post_init__(self) -> None:
        if self.probs_BC.ndim != 2 or self.probs_BC.shape != self.expose_BC.shape:
            shapes = f"{self.probs_BC.shape} and {self.expose_BC.shape}"
            raise ValueError(f"probs_BC and expose_BC must share one shape (rows, channels), got {shapes}")
        if not ((self.probs_BC >= 0).all() and np.allclose(self.probs_BC.sum(axis=1), 1.0, atol=1e-6)):
            raise ValueError("probs_BC: each row must be probabilities that sum to one")


class ValueDifference(TypedDict):
    """Value of both arms under one budget; plain numbers, ready for JSON. Dicts hold one number an arm."""

    challenger: float  # gain per opportunity under the budget
    challenger_ci: list[float]
    incumbent: float
    incumbent_ci: list[float]
    difference: float  # challenger - incumbent
    difference_ci: list[float]
    ess: dict[str, float]
    ess_share: dict[str, float]  # of rows
    overlap: dict[str, float]
    mean_weight: dict[str, float]
    mean_weight_ci: dict[str, list[float]]
    gain_per_opportunity: dict[str, float]  # before the budget
    cost_per_opportunity: dict[str, float]
    budget_per_opportunity: float
    rows: int
    users: int


def value_difference(
    challenger: PolicyOnLog,
    incumbent: PolicyOnLog,
    gain_B: ArrayLike,
    cost_B: ArrayLike,
    propensity_B: ArrayLike,
    channel_B: ArrayLike,
    users_B: ArrayLike,
    budget_share: float,
    seed: int,
    resamples: int = 1000,
) -> ValueDifference:
    """Estimate both arms' values on the same log and budget.

    Args:
        challenger: The new policy at each row.
        incumbent: The policy to beat, at each row.
        gain_B: Logged gain.
        cost_B: Logged cost.
        propensity_B: Probability with which the logged channel was chosen, in (0, 1].
        channel_B: Logged channel.
        users_B: User of each row.
        budget_share: Budget of either arm, as a share of the mean logged cost.
        seed: Seed of the resampling.
        resamples: Number of resamples.

    Raises:
        ValueError: no rows, arrays of different lengths, values that are not finite, or a propensity outside (0, 1].
    """
    channel = np.asarray(channel_B, dtype=np.int64)
    gain, cost, propensity = (np.asarray(part, dtype=np.float64) for part in (gain_B, cost_B, propensity_B))
    rows = len(channel)
    log = {"gain_B": gain, "cost_B": cost, "propensity_B": propensity, "users_B": np.asarray(users_B)}
    _check(rows, (challenger, incumbent), log, budget_share)

    logged = np.arange(rows), channel
    policies = dict(zip(ARMS, (challenger, incumbent), strict=True))
    weights = {arm: policy.probs_BC[logged] / propensity for arm, policy in policies.items()}
    columns = [np.ones(rows), cost]
    for arm, weight_B in weights.items():
        exposed_B = weight_B * policies[arm].expose_BC[logged]
        columns += [weight_B, exposed_B * gain, exposed_B * cost]
    users = UserResamples(users_B, resamples, seed)
    # All estimates are functions of these sums, so a resample need only re-weigh the sums of its users.
    sums_US = np.stack([np.bincount(users.code_B, column, users.users) for column in columns], axis=1)
    gain_2, cost_2, value_2, budget = _estimates(sums_US.sum(axis=0), budget_share)
    draws_RS = np.array([counts_U @ sums_US for counts_U in users])
    draws_R2 = np.array([_estimates(sums_S, budget_share)[2] for sums_S in draws_RS])
    weight_draws_R2 = draws_RS[:, [2, 5]] / draws_RS[:, :1]  # sums of weights over rows, in the order of ARMS

    unknown = [float("nan"), float("nan")]
    ess = {arm: float(weight_B.sum() ** 2 / max(weight_B @ weight_B, 1e-300)) for arm, weight_B in weights.items()}
    return ValueDifference(
        challenger=float(value_2[0]),
        challenger_ci=interval(draws_R2[:, 0]) or unknown,
        incumbent=float(value_2[1]),
        incumbent_ci=interval(draws_R2[:, 1]) or unknown,
        difference=float(value_2[0] - value_2[1]),
        difference_ci=interval(draws_R2[:, 0] - draws_R2[:, 1]) or unknown,
        ess=ess,
        ess_share={arm: value / rows for arm, value in ess.items()},
        overlap={arm: float(np.minimum(weight_B, 1).mean()) for arm, weight_B in weights.items()},
        mean_weight={arm: float(weight_B.mean()) for arm, weight_B in weights.items()},
        mean_weight_ci={arm: interval(weight_draws_R2[:, i]) or unknown for i, arm in enumerate(ARMS)},
        gain_per_opportunity=dict(zip(ARMS, gain_2.tolist(), strict=True)),
        cost_per_opportunity=dict(zip(ARMS, cost_2.tolist(), strict=True)),
        budget_per_opportunity=budget,
        rows=rows,
        users=users.users,
    )


def gate(
    estimate: Mapping[str, Any],
    min_lift: float = 0.0,
    min_ess: float = 0.01,
    min_ess_rows: float = 100,
    max_weight_error: float = 0.05,
) -> tuple[str, str]:
    """Decide whether the challenger may go on to an experiment.

    Args:
        estimate: What :func:`value_difference` returned, or its JSON.
        min_lift: Gain per opportunity that the lower bound of the difference must exceed.
        min_ess: Smallest effective sample size of either arm, as a share of rows.
        min_ess_rows: And as a number of rows.
        max_weight_error: How far either arm's mean weight may be from 1 beyond what chance explains: its whole
            interval must not lie further away.

    Returns:
        "promote" or "reject", and the reason in words.
    """
    for arm in ARMS:
        needed = max(min_ess * estimate["rows"], min_ess_rows)
        found = estimate["ess"][arm]
        if not found >= needed:
            return "reject", (
                f"the log says too little about the {arm}: its effective sample is {found:.0f} of "
                f"{estimate['rows']} rows, at least {needed:.0f} are needed"
            )
        low, high = estimate["mean_weight_ci"][arm]
        if low > 1 + max_weight_error or high < 1 - max_weight_error:
            return "reject", (
                f"the propensities do not describe the log: the {arm}'s mean weight is "
                f"{estimate['mean_weight'][arm]:.2f} [{low:.2f}, {high:.2f}] and should be 1"
            )
    low, high = estimate["difference_ci"]
    bounds = f"challenger - incumbent is {estimate['difference']:+.4g}, 95 % interval [{low:+.4g}, {high:+.4g}]"
    if low > min_lift:
        return "promote", f"{bounds}: all above {min_lift:g}"
    return "reject", f"{bounds}: not all above {min_lift:g}"


def _estimates(sums_S: Floats, budget_share: float) -> tuple[Floats, Floats, Floats, float]:
    """Gain, cost and value of both arms, and the budget, from sums over rows."""
    rows, cost = sums_S[:2]
    weight_2, gain_2, cost_2 = sums_S[2:].reshape(2, 3).T
    with np.errstate(divide="ignore", invalid="ignore"):  # no weight at all: NaN is the answer
        gain_2, cost_2 = gain_2 / weight_2, cost_2 / weight_2
        budget = budget_share * cost / rows
        share_2 = np.where(cost_2 > budget, budget / cost_2, 1.0)
    return gain_2, cost_2, gain_2 * share_2, float(budget)


def _check(
    rows: int,
    policies: tuple[PolicyOnLog, PolicyOnLog],
    columns: Mapping[str, NDArray[Any]],
    budget_share: float,
) -> None:
    if rows == 0:
        raise ValueError("the log has no rows")
    for arm, policy in zip(ARMS, policies, strict=True):
        if len(policy.probs_BC) != rows:
            raise ValueError(f"{arm}: {len(policy.probs_BC)} rows of probabilities for {rows} logged rows")
    for name, column in columns.items():
        if column.shape != (rows,):
            raise ValueError(f"{name} must have shape ({rows},), got {column.shape}")
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            raise ValueError(f"{name} must be finite")
    propensity = columns["propensity_B"]
    if not ((propensity > 0) & (propensity <= 1)).all():
        raise ValueError("propensity_B must lie in (0, 1]")
    if not 0 < budget_share < np.inf:
        raise ValueError(f"budget_share must be a positive number, got {budget_share}")
