"""What a log can say about a policy that did not write it: the weight of each row, and how far to trust them.

A logged row came about by choosing channel a with propensity p. A policy that would have chosen a with probability
pi(a|s) counts that row w = pi(a|s) / p times (Horvitz & Thompson 1952). The weights themselves say what they are worth:

- effective sample size, sum(w)^2 / sum(w^2): the number of equally weighted rows that would know as much (Kish 1965);
- overlap, mean(min(1, w)): estimates 1 - total variation distance between the policy and the logging policy;
- mean weight: 1, up to noise, if the propensities are right. Estimated propensities that miss what the logging policy
  looked at show here, and so does a choice of rows that looked at the channel that was logged;
- largest weight: how much a single row may move.

Shapes: B rows, C channels, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from mtorl.arrays import Bools, Floats
from mtorl.evaluation.resamples import interval

MAX_WEIGHT_ERROR = 0.05


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

    @classmethod
    def always_exposing(cls, probs_BC: Floats) -> PolicyOnLog:
        """A policy that spends whatever it chooses."""
        return cls(probs_BC, np.ones(probs_BC.shape, dtype=np.bool_))


class WeightSummary(TypedDict):
    """How much a log knows about a policy; plain numbers, ready for JSON."""

    rows: float  # logged rows; of weighted rows, their effective number
    ess: float  # effective sample size, rows
    ess_share: float  # of `rows`
    overlap: float
    mean_weight: float
    mean_weight_ci: list[float]
    max_weight: float


def weight_summary(weight_B: Floats, count_B: Floats, mean_weight_R: Floats) -> WeightSummary:
    """Sum up the weights.

    Args:
        weight_B: Importance weight of each row.
        count_B: How much each row counts for a reason that has nothing to do with the channel: 1, or 0 for a row that
            is left out.
        mean_weight_R: Mean weight of each resample of users.
    """
    rows, ess = effective_size(count_B), effective_size(count_B * weight_B)
    return WeightSummary(
        rows=rows,
        ess=ess,
        ess_share=ess / rows,
        overlap=float(count_B @ np.minimum(weight_B, 1) / count_B.sum()),
        mean_weight=float(count_B @ weight_B / count_B.sum()),
        mean_weight_ci=interval(mean_weight_R) or [float("nan"), float("nan")],
        max_weight=float(weight_B[count_B > 0].max()),
    )


def effective_size(weight_B: Floats) -> float:
    """Number of equally weighted rows that would know as much; 0 if there is no weight at all."""
    return float(weight_B.sum() ** 2 / max(weight_B @ weight_B, 1e-300))


def rejection_reason(
    found: Mapping[str, Any], who: str, least: float, max_weight_error: float = MAX_WEIGHT_ERROR
) -> str | None:
    """Why an estimate that rests on these weights should not be used, in words; None if nothing speaks against it.

    Args:
        found: `WeightSummary`, or its JSON.
        who: Name of the policy.
        least: Smallest effective sample size, rows.
        max_weight_error: How far the mean weight may be from 1 beyond what chance explains: its whole interval must not
            lie further away.
    """
    if not found["ess"] >= least:
        return (
            f"the log says too little about the {who}: its effective sample is {found['ess']:.0f} of "
            f"{found['rows']:.0f} rows, at least {least:.0f} are needed"
        )
    low, high = found["mean_weight_ci"]
    if low > 1 + max_weight_error or high < 1 - max_weight_error:
        return (
            f"the propensities do not describe the log: the {who}'s mean weight is "
            f"{found['mean_weight']:.2f} [{low:.2f}, {high:.2f}] and should be 1"
        )
    return None


def check_log(policies: Mapping[str, PolicyOnLog], channel_B: NDArray[np.int64], log: Mapping[str, Any]) -> None:
    """Refuse arrays that do not belong together.

    Args:
        policies: By name.
        channel_B: Logged channel.
        log: Further columns by name, one value a row, with propensity_B among them.

    Raises:
        ValueError: no rows, arrays of different lengths, values that are not finite, an unknown channel, or a
            propensity outside (0, 1].
    """
    rows = len(channel_B)
    if rows == 0:
        raise ValueError("the log has no rows")
    for name, policy in policies.items():
        if len(policy.probs_BC) != rows:
            raise ValueError(f"{name}: {len(policy.probs_BC)} rows of probabilities for {rows} logged rows")
        if not (channel_B.min() >= 0 and channel_B.max() < policy.probs_BC.shape[1]):
            raise ValueError(f"channel_B: {name} knows channels 0 to {policy.probs_BC.shape[1] - 1} only")
    for name, column in log.items():
        if column.shape != (rows,):
            raise ValueError(f"{name} must have shape ({rows},), got {column.shape}")
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            raise ValueError(f"{name} must be finite")
    propensity_B = log["propensity_B"]
    if not ((propensity_B > 0) & (propensity_B <= 1)).all():
        raise ValueError("propensity_B must lie in (0, 1]")
