"""Off-policy value of a challenger against the incumbent, from a log that neither wrote, and the gate that reads it.

    log = LoggedRows(channel_B, propensity_B, gain_B, cost_B, users_B)
    value = value_difference(challenger, incumbent, log, budget_share=0.5, seed=0, forecasts)
    decision, reason = gate(value, min_lift=0.0)

An exposure of the log counts w times: the policy's probability of drawing and exposing that channel over the log's.
What a policy does not expose earns and costs nothing; that is known, and no row is needed to say so. With m the
probability with which the policy exposes at a row, g the gain that was logged and q the one that a model expects:

    G = mean(q(pi)) + mean(m) * sum(w (g - q)) / sum(w)     gain per opportunity
    W = the same of costs                                   cost per opportunity
    V = G * min(1, b / W)                                   gain per opportunity under a budget of b per opportunity

This is the doubly robust estimate with self-normalised weights (`policy_value.py`). Without a model q is zero, which
leaves the plain self-normalised one. The expectation of w is that of m, so their ratio is 1 if the probabilities are
right.

V is what makes arms comparable: both get the same b, and an arm that would spend more is thinned at random until it
fits. Earning more by spending more is no merit. Intervals resample *users*, whose rows resemble each other; both arms
are computed on the same resample, so the difference keeps their correlation.

An exposure that the log's policy hardly ever made, because it explored it only, has a large weight, and a few of them
drown all others in noise. What they could say is left to forecasts (SWITCH: Wang, Agarwal & Dudík 2017,
arXiv:1612.01205): of the two arms' models, to a challenger's exposures the one that expects less, and to an incumbent's
the one that expects more. For a model overrates what it chooses, and underrates what it passes over. Which exposures
these are, only probabilities decide.

A log says nothing at all about an exposure that could not have happened: one on a channel that was never drawn there,
or that the logging policy never wanted to show. The mean weight does not tell. So the gate looks at what share of a
policy's exposures is of either kind, and refuses above a bound.

What it cannot see: other choices at earlier steps would have led to other states. It is a one-step estimate at the
states of the log, for policies whose journeys look much like the logged ones.

Shapes: B rows, C channels, U users, R resamples, S sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from mtorl.arrays import Floats
from mtorl.evaluation.importance_weights import MAX_WEIGHT_ERROR, rejection_reason, weight_summary
from mtorl.evaluation.logged_rows import LoggedRows, PolicyOnLog
from mtorl.evaluation.resamples import UserResamples, interval

ARMS = ("challenger", "incumbent")

MAX_IMPOSSIBLE = 0.05
"""Largest share of an arm's exposures of which the log can say nothing."""

MAX_WEIGHT = 10.0
"""Largest weight of an exposure: forecasts speak of those that would have more."""

MAX_FORECAST = 0.25
"""Largest share of an arm's exposures of which only forecasts speak."""


@dataclass(frozen=True)
class ExpectedOutcomes:
    """Gain and cost of an exposure in each channel, as a model of other users expects them."""

    gain_BC: Floats
    cost_BC: Floats


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
    mean_weight: dict[str, float]  # of an exposure, over its expectation
    mean_weight_ci: dict[str, list[float]]
    impossible: dict[str, float]  # share of the arm's exposures that the log could not have made
    forecast: dict[str, float]  # and of those of which forecasts speak, the impossible among them
    gain_per_opportunity: dict[str, float]  # before the budget
    cost_per_opportunity: dict[str, float]
    budget_per_opportunity: float
    rows: int
    users: int


def value_difference(
    challenger: PolicyOnLog,
    incumbent: PolicyOnLog,
    log: LoggedRows,
    budget_share: float | None,
    seed: int,
    forecasts: Mapping[str, ExpectedOutcomes] | None = None,
    resamples: int = 1000,
) -> ValueDifference:
    """Estimate both arms' values on the same log and budget.

    Args:
        challenger: The new policy at each row.
        incumbent: The policy to beat, at each row.
        log: What happened at each row.
        budget_share: Budget of either arm, as a share of what always exposing would cost. None: what the incumbent
            spends.
        seed: Seed of the resampling.
        forecasts: What each arm's model of other users than the log's expects; or the challenger's alone. Without both,
            every weight counts; without any, what the log says nothing of earns nothing.
        resamples: Number of resamples.

    Raises:
        ValueError: policies that do not fit the log, or a budget that is not positive.
    """
    policies = dict(zip(ARMS, (challenger, incumbent), strict=True))
    log.check_policies(policies)
    if budget_share is not None and not 0 < budget_share < np.inf:
        raise ValueError(f"budget_share must be a positive number, got {budget_share}")

    shape = challenger.probs_BC.shape
    told = forecasts or {"challenger": ExpectedOutcomes(np.zeros(shape), np.zeros(shape))}
    for arm, one in told.items():
        if one.gain_BC.shape != shape or one.cost_BC.shape != shape:
            shapes = f"{one.gain_BC.shape} and {one.cost_BC.shape}"
            raise ValueError(f"forecasts must have shape {shape}, got {shapes} of the {arm}")
    expected, both = told["challenger"], set(ARMS) <= set(told)
    gains_BC = [told[arm if both else "challenger"].gain_BC for arm in ARMS]
    cautious_BC = {"challenger": np.minimum(*gains_BC), "incumbent": np.maximum(*gains_BC)}
    expected_cost_B = expected.cost_BC[log.at_channel]
    gain_B, cost_B = log.gain_B - expected.gain_BC[log.at_channel], log.cost_B - expected_cost_B

    every_B, as_logged_B = np.ones(len(log)), log.exposure_weight()
    weights, forecast, impossible = {}, {}, {}
    columns = [every_B, as_logged_B, as_logged_B * cost_B, expected_cost_B]
    for arm, policy in policies.items():
        known_BC = log.weighable(policy, MAX_WEIGHT if both else np.inf)
        weights[arm] = weight_B = log.exposure_weight(policy) * known_BC[log.at_channel]
        exposing_BC = policy.probs_BC * policy.expose_BC
        every = max(float(exposing_BC.sum()), 1e-300)
        forecast[arm] = float((exposing_BC * ~known_BC).sum()) / every
        impossible[arm] = float(log.impossible(policy).sum()) / every
        columns += [weight_B, weight_B * gain_B, weight_B * cost_B, (exposing_BC * known_BC).sum(axis=1)]
        planned_BC = np.where(known_BC, expected.gain_BC, cautious_BC[arm])
        columns += [(exposing_BC * planned_BC).sum(axis=1), (exposing_BC * expected.cost_BC).sum(axis=1)]
    users = UserResamples(log.users_B, resamples, seed)
    sums_S, draws_RS = users.sums(columns)
    gain_2, cost_2, value_2, budget = _estimates(sums_S, budget_share)
    draws_R2 = np.array([_estimates(draw_S, budget_share)[2] for draw_S in draws_RS])
    trust, scale = {}, {}
    for i, arm in enumerate(ARMS):
        exposing_R = np.append(draws_RS[:, _EXPOSING[i]], sums_S[_EXPOSING[i]])
        with np.errstate(divide="ignore", invalid="ignore"):  # a policy that never exposes needs no weights
            ratio_R = np.where(exposing_R > 0, np.append(draws_RS[:, _WEIGHT[i]], 0.0) / exposing_R, 1.0)[:-1]
        exposes = exposing_R[-1] > 0
        trust[arm] = weight_summary(weights[arm] if exposes else every_B, every_B, ratio_R)
        scale[arm] = len(log) / exposing_R[-1] if exposes else 1.0

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
        overlap={arm: trust[arm]["overlap"] * scale[arm] * (1.0 - forecast[arm]) for arm in ARMS},
        mean_weight={arm: trust[arm]["mean_weight"] * scale[arm] for arm in ARMS},
        mean_weight_ci={arm: trust[arm]["mean_weight_ci"] for arm in ARMS},
        impossible=impossible,
        forecast=forecast,
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
    max_impossible: float = MAX_IMPOSSIBLE,
    max_forecast: float = MAX_FORECAST,
) -> tuple[str, str]:
    """Decide whether the challenger may go on to an experiment.

    Args:
        estimate: What :func:`value_difference` returned, or its JSON.
        min_lift: Gain per opportunity that the lower bound of the difference must exceed.
        min_ess: Smallest effective sample size of either arm, as a share of rows.
        min_ess_rows: And as a number of rows.
        max_weight_error: How far either arm's mean weight may be from 1 beyond what chance explains: its whole
            interval must not lie further away.
        max_impossible: Largest share of either arm's exposures that the log could not have made.
        max_forecast: Largest share of either arm's exposures of which only forecasts speak.

    Returns:
        "promote" or "reject", and the reason in words.
    """
    if reason := refusal(estimate, min_ess, min_ess_rows, max_weight_error, max_impossible, max_forecast):
        return "reject", reason
    low, high = estimate["difference_ci"]
    bounds = f"challenger - incumbent is {estimate['difference']:+.4g}, 95 % interval [{low:+.4g}, {high:+.4g}]"
    if low > min_lift:
        return "promote", f"{bounds}: all above {min_lift:g}"
    return "reject", f"{bounds}: not all above {min_lift:g}"


def refusal(
    estimate: Mapping[str, Any],
    min_ess: float = 0.01,
    min_ess_rows: float = 100,
    max_weight_error: float = MAX_WEIGHT_ERROR,
    max_impossible: float = MAX_IMPOSSIBLE,
    max_forecast: float = MAX_FORECAST,
) -> str | None:
    """Why an estimate should not be used, in words; None if nothing speaks against it. Arguments as of `gate`."""
    for arm in ARMS:
        impossible = estimate.get("impossible", {}).get(arm, 0.0)  # an evaluation of an earlier version says nothing
        if impossible > max_impossible:
            return (
                f"the log can't say what the {arm} is worth: {impossible:.0%} of its exposures are of a kind that no "
                f"policy of the log could make, {max_impossible:.0%} may be at most; let arms explore what to expose, "
                "and collect what they decide from then on by itself"
            )
        forecast = estimate.get("forecast", {}).get(arm, 0.0)
        if forecast > max_forecast:
            return (
                f"the log says too little of what the {arm} is worth: {forecast:.0%} of its exposures are of a kind"
                f" that its policies hardly ever made, {max_forecast:.0%} may be at most; let arms explore more of them"
            )
        weights = {name: estimate[name][arm] for name in ("ess", "mean_weight", "mean_weight_ci")}
        least = max(min_ess * estimate["rows"], min_ess_rows)
        if reason := rejection_reason({**weights, "rows": estimate["rows"]}, arm, least, max_weight_error):
            return reason
    return None


# Places of sums: four of the log, then six of each arm.
_WEIGHT, _EXPOSING = (4, 10), (7, 13)


def _estimates(sums_S: Floats, budget_share: float | None) -> tuple[Floats, Floats, Floats, float]:
    """Gain, cost and value of both arms, and the budget, from sums over rows."""
    rows, exposures, cost, planned_cost = sums_S[:4]
    weight_2, gain_2, cost_2, exposing_2, planned_gain_2, planned_cost_2 = sums_S[4:].reshape(2, 6).T
    with np.errstate(divide="ignore", invalid="ignore"):  # no weight at all: NaN is the answer
        # Of a policy that never exposes nothing needs to be estimated.
        per_weight_2 = np.where(exposing_2 > 0, exposing_2 / weight_2, 0.0)
        gain_2 = (planned_gain_2 + np.where(exposing_2 > 0, per_weight_2 * gain_2, 0.0)) / rows
        cost_2 = (planned_cost_2 + np.where(exposing_2 > 0, per_weight_2 * cost_2, 0.0)) / rows
        # Else a share of what exposing each draw would cost.
        budget = cost_2[1] if budget_share is None else budget_share * (planned_cost / rows + cost / exposures)
        share_2 = np.where(cost_2 > budget, budget / cost_2, 1.0)
    return gain_2, cost_2, gain_2 * share_2, float(budget)
