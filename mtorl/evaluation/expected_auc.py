"""How well a model ranks, before anybody knows what came of it: estimated from its own calibrated probabilities.

If a decision succeeds with probability p, it counts as p of a success and 1 - p of a failure. The AUC with these
weights is what is to be expected of outcomes that come as predicted ("confidence-based performance estimation",
NannyML). It is as right as the probabilities are: a model whose calibration is off is measured by what came of its
decisions, once that is known.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mtorl.evaluation.head_metrics import auc


def realised_auc(probability_N: ArrayLike, success_N: ArrayLike) -> float:
    """Area under the ROC curve of what came; NaN without a success, or without a failure."""
    p_N = np.asarray(probability_N, dtype=np.float64)
    if not len(p_N):
        return float("nan")
    return auc(p_N, np.asarray(success_N, dtype=np.bool_))(np.ones(len(p_N)))


def expected_auc(probability_N: ArrayLike) -> float:
    """The same, of outcomes that are not known yet; NaN without a decision."""
    p_N = np.clip(np.asarray(probability_N, dtype=np.float64), 0.0, 1.0)
    if not len(p_N):
        return float("nan")
    success_N = np.repeat([True, False], len(p_N))
    return auc(np.concatenate([p_N, p_N]), success_N)(np.concatenate([p_N, 1.0 - p_N]))


def auc_error(area: float, successes: int, failures: int) -> float:
    """Standard error of an area under the ROC curve (Hanley and McNeil, 1982)."""
    if not (successes and failures) or not np.isfinite(area):
        return float("nan")
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (successes - 1) * (q1 - area**2) + (failures - 1) * (q2 - area**2)
    return float(np.sqrt(max(spread, 0.0) / (successes * failures)))
