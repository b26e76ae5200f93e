"""Summarises importance weights: how much each logged row counts for another policy, and how reliable estimates are.

A row whose channel a was chosen with propensity p has the weight w = pi(a|s) / p for policy pi (Horvitz & Thompson
1952). Four figures describe the reliability of the weights:

- effective sample size, sum(w)^2 / sum(w^2): the number of equally weighted rows with as much information (Kish 1965);
- overlap, mean(min(1, w)): estimates 1 - total variation distance between the policy and the logging policy;
- mean weight: 1, apart from noise, if the propensities are right. Any other value means that estimated propensities
  ignore an input of the logging policy, or that rows were selected by their channel;
- largest weight: the largest influence of a single row.

Shapes: B rows, R resamples.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np

from mtorl.arrays import Floats
from mtorl.evaluation import messages
from mtorl.evaluation.resamples import interval
from mtorl.runtime.message import Message

MAX_WEIGHT_ERROR = 0.05
"""Allowed distance of the mean weight from 1. The weights are rejected if the whole interval is further away."""


class WeightSummary(TypedDict):
    """How much information a log has about a policy; plain numbers, ready for JSON."""

    rows: float  # number of logged rows; the effective number if rows are weighted
    ess: float  # effective sample size, rows
    ess_share: float  # fraction of `rows`
    overlap: float
    mean_weight: float
    mean_weight_ci: list[float]
    max_weight: float


def weight_summary(weight_B: Floats, count_B: Floats, mean_weight_R: Floats) -> WeightSummary:
    """Summarise the weights of a policy's rows, with the mean weight of each resample of users.

    `count_B` is 1, or 0 for a row that is left out for a reason unrelated to its channel.
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
    """Return the number of equally weighted rows with as much information (Kish 1965); 0 if all weights are 0."""
    return float(weight_B.sum() ** 2 / max(weight_B @ weight_B, 1e-300))


def rejection_reason(summary: Mapping[str, Any], policy: str, least: float) -> Message | None:
    """Return why an estimate with these weights must not be used, or None. `least`: least sufficient ESS, in rows."""
    if not summary["ess"] >= least:
        return messages.EFFECTIVE_SAMPLE(arm=policy, ess=summary["ess"], rows=summary["rows"], least=least)
    low, high = summary["mean_weight_ci"]
    if low > 1 + MAX_WEIGHT_ERROR or high < 1 - MAX_WEIGHT_ERROR:
        return messages.WRONG_PROPENSITIES(arm=policy, mean=summary["mean_weight"], low=low, high=high)
    return None
