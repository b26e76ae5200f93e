"""Off-policy value of a policy over whole journeys: what it earns when its earlier choices shape later states.

    value = journey_value(policy, log, step_B, horizon=5, seed=0)                             # log: LoggedRows
    value["estimates"]["pdis"]["value"], value["ess_share"], value["evaluable_horizon"]

Per-decision importance sampling (Precup, Sutton & Singh 2000) weighs the gain of step t by the product of the policy's
weights (`importance_weights.py`) from the first step to t. Over journeys i of n:

    PDIS     sum_t  sum_i(rho_it g_it) / n                rho_it = w_i0 w_i1 ... w_it
    SNPDIS   sum_t  sum_i(rho_it g_it) / sum_i(rho_it)    each step self-normalised, as by Thomas & Brunskill 2016

A journey that has ended keeps its last weight and earns nothing. Only the first `horizon` steps count.

The effective sample shrinks about as fast as (share of one step)^t: a share of .33 at one step leaves one journey in a
thousand after six. Where all depends on journeys too rare to be in the log, PDIS (unbiased) is mostly too low, and its
interval too narrow; SNPDIS is steadier, and biased towards what was logged. So look at the effective sample of the last
step first; where it is small, shorten the horizon, use `policy_value.py`, or run the experiment.

Shapes: B rows, C channels, J journeys, H steps, R resamples, S sums.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike

from mtorl.arrays import Floats
from mtorl.evaluation.importance_weights import effective_size
from mtorl.evaluation.logged_rows import LoggedRows, PolicyOnLog
from mtorl.evaluation.policy_value import MIN_ESS_SHARE, Estimate, estimate
from mtorl.evaluation.resamples import UserResamples, interval


class JourneyValue(TypedDict):
    """Value of a policy; gain per journey over its first `horizon` steps. Plain numbers, ready for JSON."""

    logged: float
    logged_ci: list[float]
    estimates: dict[str, Estimate]  # pdis, snpdis
    ess_share: list[float]  # effective number of journeys after each step, as a share of all
    max_weight: float  # of a journey at the last step
    evaluable_horizon: int  # steps after which the effective sample is still large enough
    not_evaluable: str | None  # why the estimates should not be used; None: nothing speaks against it
    journeys: int
    users: int


def journey_value(
    policy: PolicyOnLog, log: LoggedRows, step_B: ArrayLike, horizon: int, seed: int, resamples: int = 1000
) -> JourneyValue:
    """Estimate what a policy would have earned per journey, over its first `horizon` steps.

    Args:
        policy: A channel that it would not spend on earns nothing; that its absence would lead to another state is not
            seen.
        log: Whole journeys one after the other, as in `WindowTable.rows`, each row at a step from 0 on.
    """
    step = np.asarray(step_B, dtype=np.int64)
    follows_B = (step[1:] == step[:-1] + 1) & (log.users_B[1:] == log.users_B[:-1])
    if step[0] != 0 or not (follows_B | (step[1:] == 0)).all():
        raise ValueError("step_B must count 0, 1, ... through each journey of one user")
    horizon = min(horizon, int(step.max()) + 1)
    starts_J = np.flatnonzero(step == 0)
    at = np.cumsum(step == 0) - 1, step

    def by_step(value_B: Floats, absent: float) -> Floats:
        table_JT = np.full((len(starts_J), int(step.max()) + 1), absent)
        table_JT[at] = value_B
        return table_JT[:, :horizon]

    rho_JH = by_step(log.weight(policy), 1.0).cumprod(axis=1)
    earned_JH = rho_JH * by_step(policy.expose_BC[log.at_channel] * log.gain_B, 0.0)
    logged_J = by_step(log.gain_B, 0.0).sum(axis=1)
    users = UserResamples(log.users_B[starts_J], resamples, seed)
    sums_S, draws_RS = users.sums([np.ones(len(starts_J)), logged_J, *rho_JH.T, *earned_JH.T])
    values, draws = _estimates(sums_S, horizon), _estimates(draws_RS, horizon)

    ess_share_H = np.array([effective_size(rho_J) / len(starts_J) for rho_J in rho_JH.T])
    evaluable = int(np.cumprod(ess_share_H >= MIN_ESS_SHARE).sum())
    return JourneyValue(
        logged=float(values["logged"]),
        logged_ci=interval(draws["logged"]) or [float("nan")] * 2,
        estimates={
            name: estimate(values[name], draws[name], values["logged"], draws["logged"]) for name in ("pdis", "snpdis")
        },
        ess_share=ess_share_H.tolist(),
        max_weight=float(rho_JH[:, -1].max()),
        evaluable_horizon=evaluable,
        not_evaluable=None if evaluable == horizon else _refusal(ess_share_H, evaluable, len(starts_J)),
        journeys=len(starts_J),
        users=users.users,
    )


def _refusal(ess_share_H: Floats, evaluable: int, journeys: int) -> str:
    least = MIN_ESS_SHARE * journeys
    return (
        f"the log says too little about the policy from step {evaluable + 1} on: its effective sample there is "
        f"{ess_share_H[evaluable] * journeys:.0f} of {journeys} journeys, at least {least:.0f} are needed"
    )


def _estimates(sums: Floats, horizon: int) -> dict[str, Floats]:
    """All estimates from sums over journeys, (S,) or (R, S)."""
    journeys, gain = sums[..., 0], sums[..., 1]
    rho_H, earned_H = sums[..., 2 : 2 + horizon], sums[..., 2 + horizon :]
    with np.errstate(divide="ignore", invalid="ignore"):  # no weight at all: NaN is the answer
        return {
            "logged": gain / journeys,
            "pdis": earned_H.sum(axis=-1) / journeys,
            "snpdis": (earned_H / rho_H).sum(axis=-1),
        }
