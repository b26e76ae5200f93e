"""Estimates the off-policy value of one policy at the states of a log, on all rows or on rows that a budget selects.

    policy = PolicyOnLog.always_exposing(probs_BC)
    selected_B = top_share(score_B, 0.375, seed=0)       # a score of the state, not of the logged channel
    value = policy_value(policy, log, seed=0, gain_model_BC=q_BC, selected_B=selected_B)      # log: LoggedRows
    value["estimates"]["snips"]["value"], value["estimates"]["snips"]["value_ci"], value["not_evaluable"]

The estimates are gains per selected row. Let w be the weight of a row (`importance_weights.py`), g its gain and n the
number of rows. A model expects the gain q(a) for the logged channel, and q(pi) for the policy:

    IPS     sum(w g) / n                                  Horvitz & Thompson 1952; unbiased, noisy
    SNIPS   sum(w g) / sum(w)                             Swaminathan & Joachims 2015; much of the noise cancels
    DR      sum(q(pi) + w (g - q(a))) / n                 Dudík, Langford & Li 2011, arXiv:1103.4601

DR is unbiased if the propensities or the model are right. If both are right, it has the least noise. The model must be
trained on *other users* than those of the log (cross-fitting), because a model trained on the log's gains would repeat
their noise.

For each estimate, the "lift" is its difference from the logged gain of the same rows, on the same resamples of users.
The selection of rows is treated as fixed. The estimates ignore that other choices at earlier steps change later states.

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
SELECTED = 150 / 400  # share of the exposures that the paper's budget buys


class Estimate(TypedDict):
    """A value with its 95 % interval; None if all weights are zero."""

    value: float | None  # gain per row
    value_ci: list[float] | None
    lift: float | None  # value minus the logged gain of the same rows
    lift_ci: list[float] | None


class PolicyValue(TypedDict):
    """Value of a policy; plain numbers, ready for JSON."""

    logged: float  # logged gain per selected row
    logged_ci: list[float]
    estimates: dict[str, Estimate]  # ips, snips and, with a model, dr
    importance_weights: WeightSummary
    not_evaluable: str | None  # why the estimates must not be used; None if they may be used
    rows: int  # number of selected rows
    users: int  # number of users with a selected row


def policy_value(
    policy: PolicyOnLog,
    log: LoggedRows,
    seed: int,
    gain_model_BC: ArrayLike | None = None,
    selected_B: ArrayLike | None = None,
    resamples: int = 1000,
) -> PolicyValue:
    """Estimate a policy's gain per row.

    Args:
        policy: The policy to value. If it draws a channel without exposing it, the row earns nothing.
        gain_model_BC: Expected gain of each channel, in the unit of the log's gain, from a model of other users.
        selected_B: Which rows count. The selection may depend on the state, but never on the logged channel or gain:
            rows selected by the predicted gain *of the logged channel*, for example, have a mean weight other than 1.
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
    """Return ``difference``, the policy's DR value minus another's, with its 95 % interval ``difference_ci``."""
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
    """Return a mask of the rows with the highest scores, breaking ties at random instead of by the order of the log.

    The score must depend on the state, not on the logged channel, for example the policy's expected gain.
    """
    score = np.asarray(score_B, dtype=np.float64)
    best_first = np.lexsort((np.random.default_rng(seed).random(len(score)), -score))
    selected_B = np.zeros(len(score), dtype=np.bool_)
    selected_B[best_first[: round(share * len(score))]] = True
    return selected_B


def _estimates(sums: Floats) -> dict[str, Floats]:
    rows, gain, weight, weighted_gain, *model = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):  # without any weight, the estimate is NaN
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
