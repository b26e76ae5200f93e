"""Estimates the off-policy value of one policy at the states of a log, on all rows or on rows that a budget selects.

    policy = PolicyOnLog.always_exposing(probs_BC)
    selected_B = top_share(score_B, 0.375, seed=0)       # a score of the state, not of the logged channel
    value = policy_value(policy, log, seed=0, gain_model_BC=q_BC, selected_B=selected_B)      # log: LoggedRows
    value["estimates"]["snips"]["value"], value["estimates"]["snips"]["value_ci"], value["not_evaluable"]

The estimates are gains per selected row. Let w be the importance weight of a row (`importance_weights.py`), g the gain
of the row, and n the number of rows. A model forecasts the gain q(a) of the logged channel, and q(pi) of the policy:

    IPS     sum(w g) / n                                  Horvitz & Thompson 1952; unbiased, noisy
    SNIPS   sum(w g) / sum(w)                             Swaminathan & Joachims 2015; much of the noise cancels
    DR      sum(q(pi) + w (g - q(a))) / n                 Dudík, Langford & Li 2011, arXiv:1103.4601

DR is unbiased if either the propensities or the model are correct, and has the least noise if both are. The model must
be trained on *other users* than those of the log (cross-fitting), because it would otherwise repeat the noise of the
logged gains.

The "lift" of an estimate is the estimate minus the logged gain of the same rows. All intervals use the same resamples
of users, in which the selected rows stay the same. The estimates assume that users have the history in the log,
although a policy with other choices would change it.

Shapes: B rows, C channels, R resamples, S sums.
"""

from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from mtorl.arrays import Bools, Floats
from mtorl.evaluation.importance_weights import WeightSummary, rejection_reason, weight_summary
from mtorl.evaluation.logged_rows import LoggedRows, PolicyOnLog
from mtorl.evaluation.resamples import UserResamples, interval
from mtorl.log.propensity import MIN_ESS_SHARE

ESTIMATORS = ("ips", "snips", "dr")
SELECTED = 150 / 400  # in the MTORL paper, the budget pays for 150 of 400 exposures


class Estimate(TypedDict):
    """One estimate of a policy's value, with 95 % intervals. A field is None if it is undefined."""

    value: float | None
    value_ci: list[float] | None
    lift: float | None  # `value` minus the logged gain of the same rows
    lift_ci: list[float] | None


class PolicyValue(TypedDict):
    """All estimates of the value of a policy."""

    logged: float  # gain per selected row
    logged_ci: list[float]
    estimates: dict[str, Estimate]
    importance_weights: WeightSummary
    not_evaluable: str | None  # why the estimates are not reliable
    rows: int
    users: int


def policy_value(
    policy: PolicyOnLog,
    log: LoggedRows,
    seed: int,
    gain_model_BC: ArrayLike | None = None,
    selected_B: ArrayLike | None = None,
    resamples: int = 1000,
) -> PolicyValue:
    """Estimate how much a policy would gain per row of a log, with the estimators IPS, SNIPS and DR.

    Args:
        gain_model_BC: Expected gain of each channel, from a model of other users. Without it, DR is left out.
        selected_B: Mask of the rows to evaluate. It must not depend on the logged channel or gain.
    """
    count_B = np.ones(len(log)) if selected_B is None else np.asarray(selected_B, dtype=np.float64)
    if not count_B.any():
        raise ValueError("selected_B must select a row at least")

    weight_B = log.weight(policy)
    exposed_B = policy.expose_BC[log.at_channel] * weight_B
    columns = [count_B, count_B * log.gain_B, count_B * weight_B, count_B * exposed_B * log.gain_B]
    if gain_model_BC is not None:
        model_BC = np.asarray(gain_model_BC, dtype=np.float64)
        planned_B = (policy.probs_BC * policy.expose_BC * model_BC).sum(axis=1)
        columns += [count_B * planned_B, count_B * exposed_B * model_BC[log.at_channel]]
    users = UserResamples(log.users_B, resamples, seed)
    sums_S, draws_RS = users.sums(columns)
    values, draws = _estimates(sums_S), _estimates(draws_RS)
    weights = weight_summary(weight_B, count_B, draws["mean_weight"])
    return PolicyValue(
        logged=float(values["logged"]),
        logged_ci=interval(draws["logged"]) or [float("nan")] * 2,
        estimates={
            name: _estimate(values[name], draws[name], values["logged"], draws["logged"])
            for name in ESTIMATORS
            if name in values
        },
        importance_weights=weights,
        not_evaluable=rejection_reason(weights, "policy", MIN_ESS_SHARE * weights["rows"]),
        rows=int((count_B > 0).sum()),
        users=len(np.unique(users.code_B[count_B > 0])),
    )


def value_less(
    policy: PolicyOnLog, other: PolicyOnLog, log: LoggedRows, seed: int, gain_model_BC: ArrayLike, resamples: int = 1000
) -> dict[str, Any]:
    """Return the value of one policy minus that of another by DR, with its 95 % interval."""
    model_BC = np.asarray(gain_model_BC, dtype=np.float64)
    planned_BC = policy.probs_BC * policy.expose_BC - other.probs_BC * other.expose_BC
    weight_B = planned_BC[log.at_channel] / log.propensity_B
    gain_B = (planned_BC * model_BC).sum(axis=1) + weight_B * (log.gain_B - model_BC[log.at_channel])
    total_S, draws_RS = UserResamples(log.users_B, resamples, seed).sums([gain_B, np.ones(len(log))])
    return {"difference": float(total_S[0] / total_S[1]), "difference_ci": interval(draws_RS[:, 0] / draws_RS[:, 1])}


def _estimate(value: Floats, value_R: Floats, logged: Floats, logged_R: Floats) -> Estimate:
    return Estimate(
        value=float(value) if np.isfinite(value) else None,
        value_ci=interval(value_R),
        lift=float(value - logged) if np.isfinite(value) else None,
        lift_ci=interval(value_R - logged_R),
    )


def top_share(score_B: ArrayLike, share: float, seed: int) -> Bools:
    """Return a mask of the rows with the highest scores; rows with equal scores are chosen at random.

    Args:
        score_B: A score that does not depend on the logged channel.
    """
    score = np.asarray(score_B, dtype=np.float64)
    best_first = np.lexsort((np.random.default_rng(seed).random(len(score)), -score))
    selected_B = np.zeros(len(score), dtype=np.bool_)
    selected_B[best_first[: round(share * len(score))]] = True
    return selected_B


def _estimates(sums: Floats) -> dict[str, Floats]:
    rows, gain, weight, weighted_gain, *model = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):  # if all weights are 0, SNIPS becomes NaN
        estimates = {
            "logged": gain / rows,
            "mean_weight": weight / rows,
            "ips": weighted_gain / rows,
            "snips": weighted_gain / weight,
        }
        if model:
            planned, weighted_model = model
            estimates["dr"] = (planned + (weighted_gain - weighted_model)) / rows
    return estimates
