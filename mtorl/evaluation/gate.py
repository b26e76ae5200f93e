"""Off-policy value of a challenger against the incumbent, from a log that neither wrote, and the gate that reads it.

    log = LoggedRows(channel_B, propensity_B, gain_B, cost_B, users_B)
    value = value_difference(challenger, incumbent, log, budget_share=0.5, seed=0)
    decision, reason = gate(value, min_lift=0.0)

A row of the log counts w times, the policy's probability of the logged channel over its propensity
(`importance_weights.py`). Where the policy would choose that channel and then not spend, gain and cost count as zero:

    G = sum(w * expose * gain) / sum(w)     gain per opportunity (self-normalised, "SNIPS")
    W = sum(w * expose * cost) / sum(w)     cost per opportunity
    V = G * min(1, b / W)                   gain per opportunity under a budget of b per opportunity

V is what makes arms comparable: both get the same b, and an arm that would spend more is thinned at random until it
fits. Earning more by spending more is no merit. Intervals resample *users*, whose rows resemble each other; both arms
are computed on the same resample, so the difference keeps their correlation.

What it cannot see: other choices at earlier steps would have led to other states. It is a one-step estimate at the
states of the log, for policies whose journeys look much like the logged ones.

Shapes: B rows, C channels, U users.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np

from mtorl.arrays import Floats
from mtorl.evaluation.importance_weights import MAX_WEIGHT_ERROR, rejection_reason, weight_summary
from mtorl.evaluation.logged_rows import LoggedRows, PolicyOnLog
from mtorl.evaluation.resamples import UserResamples, interval

ARMS = ("challenger", "incumbent")


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
    log: LoggedRows,
    budget_share: float,
    seed: int,
    resamples: int = 1000,
) -> ValueDifference:
    """Estimate both arms' values on the same log and budget.

    Args:
        challenger: The new policy at each row.
        incumbent: The policy to beat, at each row.
        log: What happened at each row.
        budget_share: Budget of either arm, as a share of the mean logged cost.
        seed: Seed of the resampling.
        resamples: Number of resamples.

    Raises:
        ValueError: policies that do not fit the log, or a budget that is not positive.
    """
    policies = dict(zip(ARMS, (challenger, incumbent), strict=True))
    log.check_policies(policies)
    if not 0 < budget_share < np.inf:
        raise ValueError(f"budget_share must be a positive number, got {budget_share}")

    every_B = np.ones(len(log))
    weights = {arm: log.weight(policy) for arm, policy in policies.items()}
    columns = [every_B, log.cost_B]
    for arm, weight_B in weights.items():
        exposed_B = weight_B * policies[arm].expose_BC[log.at_channel]
        columns += [weight_B, exposed_B * log.gain_B, exposed_B * log.cost_B]
    users = UserResamples(log.users_B, resamples, seed)
    sums_S, draws_RS = users.sums(columns)
    gain_2, cost_2, value_2, budget = _estimates(sums_S, budget_share)
    draws_R2 = np.array([_estimates(draw_S, budget_share)[2] for draw_S in draws_RS])
    weight_draws_R2 = draws_RS[:, [2, 5]] / draws_RS[:, :1]  # sums of weights over rows, in the order of ARMS
    trust = {arm: weight_summary(weights[arm], every_B, weight_draws_R2[:, i]) for i, arm in enumerate(ARMS)}

    unknown = [float("nan"), float("nan")]
    return ValueDifference(
        challenger=float(value_2[0]),
        challenger_ci=interval(draws_R2[:, 0]) or unknown,
        incumbent=float(value_2[1]),
        incumbent_ci=interval(draws_R2[:, 1]) or unknown,
        difference=float(value_2[0] - value_2[1]),
        difference_ci=interval(draws_R2[:, 0] - draws_R2[:, 1]) or unknown,
        ess={arm: trust[arm]["ess"] for arm in ARMS},
        ess_share={arm: trust[arm]["ess_share"] for arm in ARMS},
        overlap={arm: trust[arm]["overlap"] for arm in ARMS},
        mean_weight={arm: trust[arm]["mean_weight"] for arm in ARMS},
        mean_weight_ci={arm: trust[arm]["mean_weight_ci"] for arm in ARMS},
        gain_per_opportunity=dict(zip(ARMS, gain_2.tolist(), strict=True)),
        cost_per_opportunity=dict(zip(ARMS, cost_2.tolist(), strict=True)),
        budget_per_opportunity=budget,
        rows=len(log),
        users=users.users,
    )


def gate(
    estimate: Mapping[str, Any],
    min_lift: float = 0.0,
    min_ess: float = 0.01,
    min_ess_rows: float = 100,
    max_weight_error: float = MAX_WEIGHT_ERROR,
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
        weights = {name: estimate[name][arm] for name in ("ess", "mean_weight", "mean_weight_ci")}
        least = max(min_ess * estimate["rows"], min_ess_rows)
        if reason := rejection_reason({**weights, "rows": estimate["rows"]}, arm, least, max_weight_error):
            return "reject", reason
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
