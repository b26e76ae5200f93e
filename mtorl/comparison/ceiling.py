"""What stands between a head and its target: noise, a shift of level, or too few users.

    found = ceiling(heads, channel_B, target_B, seed)
    found["action_ece"]["noise"], found["reward_ece"]["less_shift"]

A calibration error is a mean of absolute gaps, so chance alone makes it positive: `noise` is what a head would show on
as many rows if it were perfectly calibrated, found by drawing the labels from its own probabilities. Rows of a user
resemble each other, which the draw ignores: the true floor is higher. `less_shift` is the reward head's error once the
overall rate of the test, which nobody knew, is granted to it: what remains is not the fault of a changed level.

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


def ceiling(heads: Heads, channel_B: NDArray[np.int64], target_B: Floats, seed: int) -> dict[str, Any]:
    """Judge the calibration errors of a predictor.

    Args:
        heads: What it says of the rows.
        channel_B: Logged channel.
        target_B: Reward label, in [0, 1].
        seed: Of the draws.

    Returns:
        For ``action_ece`` and ``reward_ece``: ``noise`` (mean) and ``noise_high`` (97.5 % quantile of the draws); for
        the latter ``less_shift``, too.
    """
    sure_B, _ = top_label(heads[0], channel_B)
    reward_B = np.clip(np.asarray(heads[1], dtype=np.float64)[np.arange(len(channel_B)), channel_B], _TINY, 1 - _TINY)
    level = logit(reward_B)

    def gap(shift: float) -> float:
        return float(expit(level + shift).mean() - target_B.mean())

    # A level at the very edge needs no shift to be told from the others: the bracket is wide enough for any other.
    shift = brentq(gap, -20.0, 20.0) if 0 < target_B.mean() < 1 else 0.0
    return {
        "action_ece": _noise(sure_B, seed),
        "reward_ece": {
            **_noise(reward_B, seed),
            "less_shift": calibration_error(expit(level + shift), target_B),
        },
    }


def _noise(probability_B: ArrayLike, seed: int) -> dict[str, float]:
    probability = np.asarray(probability_B, dtype=np.float64)
    random = np.random.default_rng(seed)
    found_R = [calibration_error(probability, random.random(len(probability)) < probability) for _ in range(_DRAWS)]
    return {"noise": float(np.mean(found_R)), "noise_high": float(np.quantile(found_R, 0.975))}
