"""Noise and a changed overall rate in a calibration error.

A calibration error is a mean of absolute gaps, so chance alone makes it positive. `noise` is the error that the head
would show on as many rows if it were perfectly calibrated; it is simulated by drawing labels from the head's own
probabilities. The draw treats the rows of a user as independent, so the true noise is higher. `less_shift` is the
reward head's error after its overall rate is set to that of the test rows, which cannot be known in advance.

Shapes: B rows, C channels, R draws.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit

from mtorl.arrays import Floats
from mtorl.evaluation.head_metrics import calibration_error, top_label
from mtorl.network.predictor import Heads

_DRAWS = 200
_TINY = 1e-6


def calibration_noise(heads: Heads, channel_B: NDArray[np.int64], target_B: Floats, seed: int) -> dict[str, Any]:
    """Noise of a predictor's calibration errors.

    Returns:
        For ``action_ece`` and ``reward_ece``: ``noise`` (mean) and ``noise_high`` (97.5 % quantile of the draws); for
        the latter ``less_shift``, too.
    """
    confidence_B, _ = top_label(heads[0], channel_B)
    reward_B = np.clip(np.asarray(heads[1], dtype=np.float64)[np.arange(len(channel_B)), channel_B], _TINY, 1 - _TINY)
    level = logit(reward_B)

    def gap(shift: float) -> float:
        return float(expit(level + shift).mean() - target_B.mean())

    # With labels all 0 or all 1 no finite shift fits; in all other cases the bracket is wide enough.
    shift = brentq(gap, -20.0, 20.0) if 0 < target_B.mean() < 1 else 0.0
    return {
        "action_ece": _noise(confidence_B, seed),
        "reward_ece": {
            **_noise(reward_B, seed),
            "less_shift": calibration_error(expit(level + shift), target_B),
        },
    }


def _noise(probability_B: ArrayLike, seed: int) -> dict[str, float]:
    probability = np.asarray(probability_B, dtype=np.float64)
    random = np.random.default_rng(seed)
    error_R = [calibration_error(probability, random.random(len(probability)) < probability) for _ in range(_DRAWS)]
    return {"noise": float(np.mean(error_R)), "noise_high": float(np.quantile(error_R, 0.975))}
