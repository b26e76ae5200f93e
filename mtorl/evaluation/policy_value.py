"""Off-policy value of one policy at the states of a log, on all of its rows or on those that a budget selects.

    policy = PolicyOnLog.always_exposing(probs_BC)
    selected_B = top_share(score_B, 0.375, seed=0)       # score of the state, not of the logged channel
    found = policy_value(policy, gain_B, propensity_B, channel_B, users_B, 0, q_BC, selected_B)
    found["estimates"]["snips"]["value"], found["estimates"]["snips"]["value_ci"], found["not_evaluable"]

Gain per selected row, with w the weight of a row (`importance_weights.py`), g its gain, q(a) what a model expects of
the logged channel, q(pi) what it expects of the policy, n the number of rows:

    IPS     sum(w g) / n                                  Horvitz & Thompson 1952; unbiased, noisy
    SNIPS   sum(w g) / sum(w)                             Swaminathan & Joachims 2015; much of the noise cancels
    DR      sum(q(pi) + w (g - q(a))) / n                 Dudík, Langford & Li 2011, arXiv:1103.4601
    SNDR    sum(q(pi)) / n + sum(w (g - q(a))) / sum(w)   one step of "WDR", Thomas & Brunskill 2016, arXiv:1604.00923

DR is right if either the propensities or the model are; with both right it is the least noisy. The model must have been
fitted on *other users* than those of the log (cross-fitting: one that has seen the gains repeats their luck). As long
as the propensities are right, a poor model costs precision and not truth.

Beside each estimate stands its difference from what the same rows earned as logged ("lift"), on the same resamples of
users: what the choice of channel adds to the choice of rows. The selection itself is taken as given.

Where the log says too little, `not_evaluable` says why, and nobody should use the figures beside it.

What it cannot see: other choices at earlier steps would have led to other states (`journey_value.py`, at a price).

Shapes: B rows, C channels, R resamples, S sums.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike

from mtorl.arrays import Bools, Floats
from mtorl.evaluation.importance_weights import PolicyOnLog, WeightSummary, check_log, rejection_reason, weight_summary
from mtorl.evaluation.resamples import UserResamples, interval

ESTIMATORS = ("ips", "snips", "dr", "sndr")
MIN_ESS_SHARE = 0.1
SELECTED = 150 / 400  # share of the exposures that the authors' budget buys


class Estimate(TypedDict):
    """A value with its 95 % interval; None where the log gives no weight to anything."""

    value: float | None  # gain per row
    value_ci: list[float] | None
    lift: float | None  # value less the gain of the same rows as logged
    lift_ci: list[float] | None


class PolicyValue(TypedDict):
    """Value of a policy; plain numbers, ready for JSON."""

    logged: float  # gain per selected row as it was logged
    logged_ci: list[float]
    estimates: dict[str, Estimate]  # ips, snips and, with a model, dr, sndr
    importance_weights: WeightSummary
    not_evaluable: str | None  # why the estimates should not be used; None: nothing speaks against it
    rows: int  # with a part in the estimate
    users: int  # with such a row


def policy_value(
    policy: PolicyOnLog,
    gain_B: ArrayLike,
    propensity_B: ArrayLike,
    channel_B: ArrayLike,
    users_B: ArrayLike,
    seed: int,
    gain_model_BC: ArrayLike | None = None,
    selected_B: ArrayLike | None = None,
    min_ess_share: float = MIN_ESS_SHARE,
    resamples: int = 1000,
) -> PolicyValue:
    """Estimate what a policy would have earned per row.

    Args:
        policy: What it would do at each row. A channel that it would not spend on earns nothing.
        gain_B: Logged gain.
        propensity_B: Probability with which the logged channel was chosen, in (0, 1].
        channel_B: Logged channel.
        users_B: User of each row.
        seed: Seed of the resampling.
        gain_model_BC: Expected gain of each channel, in the unit of `gain_B`, from a model of other users.
        selected_B: Which rows count (booleans) or how much (weights >= 0). The rule may look at the state, never at the
            logged channel or gain. Predicted gain *of the logged channel* does look: the mean weight strays from 1.
        min_ess_share: Smallest effective sample size, as a share of the selected rows.
        resamples: Number of resamples.

    Raises:
        ValueError: no rows are left, arrays of different lengths, values that are not finite, an unknown channel, a
            propensity outside (0, 1], or a negative weight.
    """
    channel = np.asarray(channel_B, dtype=np.int64)
    gain, propensity = np.asarray(gain_B, dtype=np.float64), np.asarray(propensity_B, dtype=np.float64)
    rows, logged = len(channel), (np.arange(len(channel)), channel)
    count_B = np.ones(rows) if selected_B is None else np.asarray(selected_B, dtype=np.float64)
    log = {"gain_B": gain, "propensity_B": propensity, "users_B": np.asarray(users_B), "selected_B": count_B}
    check_log({"policy": policy}, channel, log)
    if (count_B < 0).any() or not count_B.any():
        raise ValueError("selected_B must hold no negative weight and select a row at least")

    weight_B = policy.probs_BC[logged] / propensity
    seen_B = policy.expose_BC[logged] * weight_B
    columns = [count_B, count_B * gain, count_B * weight_B, count_B * seen_B * gain]
    if gain_model_BC is not None:
        model_BC = np.asarray(gain_model_BC, dtype=np.float64)
        if model_BC.shape != policy.probs_BC.shape or not np.isfinite(model_BC).all():
            raise ValueError(f"gain_model_BC must be finite and of shape {policy.probs_BC.shape}, got {model_BC.shape}")
        planned_B = (policy.probs_BC * policy.expose_BC * model_BC).sum(axis=1)
        columns += [count_B * planned_B, count_B * seen_B * model_BC[logged]]
    users = UserResamples(users_B, resamples, seed)
    sums_S, draws_RS = users.sums(columns)
    values, draws = _estimates(sums_S), _estimates(draws_RS)
    found = weight_summary(weight_B, count_B, draws["mean_weight"])
    return PolicyValue(
        logged=float(values["logged"]),
        logged_ci=interval(draws["logged"]) or [float("nan")] * 2,
        estimates={
            name: estimate(values[name], draws[name], values["logged"], draws["logged"])
            for name in ESTIMATORS
            if name in values
        },
        importance_weights=found,
        not_evaluable=rejection_reason(found, "policy", min_ess_share * found["rows"]),
        rows=int((count_B > 0).sum()),
        users=len(np.unique(users.code_B[count_B > 0])),
    )


def estimate(value: Floats, value_R: Floats, logged: Floats, logged_R: Floats) -> Estimate:
    """A value and its lift over the log, with intervals from the same resamples."""
    return Estimate(
        value=float(value) if np.isfinite(value) else None,
        value_ci=interval(value_R),
        lift=float(value - logged) if np.isfinite(value) else None,
        lift_ci=interval(value_R - logged_R),
    )


def top_share(score_B: ArrayLike, share: float, seed: int) -> Bools:
    """Rows with the highest scores; ties are broken at random, as the order of the log is not a merit.

    Args:
        score_B: What the budget rule ranks by, for instance the policy's expected gain, sum(probs_BC * q_BC): a figure
            of the state, not of the channel that was logged.
        share: Share of the rows that the budget allows, in (0, 1].
        seed: Seed of the ties.
    """
    score = np.asarray(score_B, dtype=np.float64)
    if not 0 < share <= 1 or not np.isfinite(score).all():
        raise ValueError(f"share must lie in (0, 1] and scores be finite, got a share of {share}")
    best_first = np.lexsort((np.random.default_rng(seed).random(len(score)), -score))
    selected_B = np.zeros(len(score), dtype=np.bool_)
    selected_B[best_first[: round(share * len(score))]] = True
    return selected_B


def _estimates(sums: Floats) -> dict[str, Floats]:
    """All estimates from sums over rows, (S,) or (R, S)."""
    rows, gain, weight, weighted_gain, *model = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):  # no weight at all: NaN is the answer
        found = {
            "logged": gain / rows,
            "mean_weight": weight / rows,
            "ips": weighted_gain / rows,
            "snips": weighted_gain / weight,
        }
        if model:
            planned, weighted_model = model
            correction = weighted_gain - weighted_model
            found |= {"dr": (planned + correction) / rows, "sndr": planned / rows + correction / weight}
    return found
