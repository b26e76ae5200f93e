"""Calibrated probabilities: one scale for the action logits, a scale and a shift for the reward's logit.

    calibration = calibrate(logits_BC, reward_B, channel_B, label_B)     # on users that training never saw

The scale is the inverse of the temperature of Guo et al. 2017 (arXiv:1706.04599). A reward has no second class whose
logit could move against it, hence the shift, as in Platt 1999. Both minimise the loss that training minimised, and
change neither the ranking of a decision's channels nor that of rewards.

Shapes: B rows, C channels.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit, logsumexp

from mtorl.arrays import Bools, Floats
from mtorl.network.ensemble import Ensemble
from mtorl.network.predictor import predict
from mtorl.window.encoder import Encoder, labels
from mtorl.window.on_demand import Windows

_RANGE = (0.2, 5.0)  # of a scale: one outside of it would be another model, not a calibration
_TINY = 1e-7
_PRIOR = 1.0  # rows' worth of a squared penalty on change: few rows should not move the scales much


class Calibration(NamedTuple):
    """What `Ensemble.calibrate` takes."""

    action_scale: float
    reward_scale: float
    reward_shift: float


def calibrate(
    logits_BC: ArrayLike,
    reward_B: ArrayLike,
    channel_B: NDArray[np.int64],
    label_B: Floats,
    clone_B: Bools | None = None,
) -> Calibration:
    """Fit on held-out rows: reward and label (0 to 1) of the logged channel; the action head follows clone_B only."""
    if not len(channel_B):
        return Calibration(1.0, 1.0, 0.0)
    prior = _PRIOR / len(channel_B)
    logits: Floats = np.asarray(logits_BC, dtype=np.float64)
    cloned = np.ones(len(channel_B), dtype=np.bool_) if clone_B is None else clone_B
    chosen = logits[np.arange(len(channel_B)), channel_B][cloned]

    def action_loss(theta: Floats) -> float:
        scale = float(theta[0])
        loss = float((logsumexp(scale * logits[cloned], axis=1) - scale * chosen).sum())
        return (loss + _PRIOR * (scale - 1) ** 2) / len(channel_B)

    odds_B = logit(np.clip(np.asarray(reward_B, dtype=np.float64), _TINY, 1 - _TINY))

    def reward_loss(theta: Floats) -> float:
        p_B = np.clip(expit(theta[0] * odds_B + theta[1]), _TINY, 1 - _TINY)
        loss = -(label_B * np.log(p_B) + (1 - label_B) * np.log1p(-p_B)).mean()
        return float(loss + prior * ((theta[0] - 1) ** 2 + theta[1] ** 2))

    action = minimize(action_loss, [1.0], bounds=[_RANGE])
    reward = minimize(reward_loss, [1.0, 0.0], bounds=[_RANGE, (-5.0, 5.0)])
    return Calibration(float(action.x[0]), float(reward.x[0]), float(reward.x[1]))


def calibrate_ensemble(ensemble: Ensemble, encoder: Encoder, batch: Windows) -> Calibration:
    """Calibrate an ensemble in place, on windows of held-out users with targets, one for each touchpoint."""
    logits_BC, reward_BC, _ = predict(ensemble, encoder, batch)
    logged = labels(batch, encoder)
    reward_B = reward_BC[np.arange(len(batch)), logged.channel_B]
    calibration = calibrate(logits_BC, reward_B, logged.channel_B, logged.reward_B, ~logged.collected_B)
    ensemble.calibrate(*calibration)
    return calibration
