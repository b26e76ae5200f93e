"""Checks whether the importance weights of a log are reliable enough to estimate the value of another policy.

If the log chose channel a with probability p (the propensity), the row has the weight w = pi(a|s) / p for policy pi
(Horvitz & Thompson 1952). Four figures describe the reliability of the weights:

- effective sample size, sum(w)^2 / sum(w^2): the number of equally weighted rows with as much information (Kish 1965);
- overlap, mean(min(1, w)): estimates 1 minus the total variation distance between the policy and the logging policy;
- mean weight: close to 1 if the propensities are correct;
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
"""Allowed distance of the mean importance weight from 1. If the whole confidence interval of the mean is further away,
the weights are rejected."""


class WeightSummary(TypedDict):
    """Figures that show how much information a log contains about a policy."""

    rows: float
    ess: float  # effective sample size, in rows
    ess_share: float
    overlap: float
    mean_weight: float
    mean_weight_ci: list[float]
    max_weight: float


def weight_summary(weight_B: Floats, count_B: Floats, mean_weight_R: Floats) -> WeightSummary:
    """Summarise the importance weights of a policy on a log.

    Args:
        count_B: 1 for each row to use, else 0. Rows must not be selected by their channel.
        mean_weight_R: Mean weight in each resample of the users.
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
    """Return the effective sample size: the number of equally weighted rows with as much information (Kish 1965)."""
    return float(weight_B.sum() ** 2 / max(weight_B @ weight_B, 1e-300))


def rejection_reason(summary: Mapping[str, Any], policy: str, least: float) -> Message | None:
    """Return why these importance weights make an estimate unreliable, or None if the estimate is reliable.

    Args:
        least: Smallest accepted effective sample size, in rows.
    """
    if not summary["ess"] >= least:
        return messages.EFFECTIVE_SAMPLE(arm=policy, ess=summary["ess"], rows=summary["rows"], least=least)
    low, high = summary["mean_weight_ci"]
    if low > 1 + MAX_WEIGHT_ERROR or high < 1 - MAX_WEIGHT_ERROR:
        return messages.WRONG_PROPENSITIES(arm=policy, mean=summary["mean_weight"], low=low, high=high)
    return None
