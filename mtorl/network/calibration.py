"""Calibrated probabilities, with personal differences between channels as far as held-out users confirm them.

    calibrate_ensemble(ensemble, encoder, held_out, users_B)       # in place

The action logits get a scale, the inverse of the temperature of Guo et al. 2017 (arXiv:1706.04599). A reward has no
second class whose logit could move against it, so its logits get a scale and a shift, as in Platt 1999. All minimise
the loss that training minimised.

The reward's logit of a channel is the mean over channels, the channel's mean effect on all users, and a rest that
differs from user to user. A network overrates that rest, since part of it is chance. So a personal share multiplies the
rest: the lower end of the 95 % interval of the outcomes' slope on it, within 0 and 1. With a share of 0 all users have
the same best channel. The mean effects are then those of the log, if it can tell: the policy is the best constant
channel of training and held-out users.

Shapes: B rows, C channels, U users.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit, logit, logsumexp

from mtorl.arrays import Bools, Floats, Ints
from mtorl.network.ensemble import Ensemble
from mtorl.network.predictor import predict
from mtorl.window.encoder import Encoder, labels
from mtorl.window.on_demand import Windows

_RANGE = (0.2, 5.0)  # of a scale: one outside of it would be another model, not a calibration
_TINY = 1e-7
_PRIOR = 1.0  # rows' worth of a squared penalty on change: few rows should not move the scales much
_Z = 1.96  # standard errors from an estimate to the lower end of its interval
_LEAST_SHARE = 0.1  # of the mean: a channel may have had no outcome yet
_STEPS = 20  # of Newton's method
_SLOPES = (-2.0, 3.0)  # within which it looks for a slope


class Calibration(NamedTuple):
    """Arguments of `Ensemble.calibrate`."""

    action_scale: float
    reward_scale: float
    personal_share: float
    reward_shift_C: list[float]


def calibrate(
    logits_BC: ArrayLike,
    reward_BC: ArrayLike,
    channel_B: Ints,
    label_B: Floats,
    users_B: ArrayLike,
    mean_C: Floats | None = None,
    clone_B: Bools | None = None,
) -> Calibration:
    """Fit on held-out rows, with labels from 0 to 1.

    Args:
        mean_C: Mean label on each channel, if the log can tell (`mtorl.log.propensity.channel_means`).
        clone_B: Rows that the action head follows.
    """
    reward_logit_BC = _logit(reward_BC)
    if not len(channel_B):
        return Calibration(1.0, 1.0, 1.0, [0.0] * reward_logit_BC.shape[1])
    logits: Floats = np.asarray(logits_BC, dtype=np.float64)
    logged = np.arange(len(channel_B)), channel_B
    cloned = np.ones(len(channel_B), dtype=np.bool_) if clone_B is None else clone_B
    chosen = logits[logged][cloned]

    def action_loss(theta: Floats) -> float:
        scale = float(theta[0])
        loss = float((logsumexp(scale * logits[cloned], axis=1) - scale * chosen).sum())
        return (loss + _PRIOR * (scale - 1) ** 2) / len(channel_B)

    rest_BC = reward_logit_BC - reward_logit_BC.mean(axis=1, keepdims=True)
    effect_C = rest_BC.mean(axis=0)
    rest_B = (rest_BC - effect_C)[logged]
    common_B = reward_logit_BC[logged] - rest_B
    scale, shift = _scale_and_shift(common_B + rest_B, label_B)
    share = _personal_share(scale * common_B + shift, scale * rest_B, label_B, users_B)
    if not share and mean_C is not None:
        logit_C = _logit(np.maximum(mean_C, _LEAST_SHARE * mean_C.mean()))
        of_log_C = logit_C - logit_C.mean()
        common_B += (of_log_C - effect_C)[channel_B]
        effect_C = of_log_C
    scale, shift = _scale_and_shift(common_B + share * rest_B, label_B)
    shift_C = shift + scale * (1 - share) * effect_C
    return Calibration(float(minimize(action_loss, [1.0], bounds=[_RANGE]).x[0]), scale, share, shift_C.tolist())


def _scale_and_shift(logit_B: Floats, label_B: Floats) -> tuple[float, float]:
    def loss(theta: Floats) -> float:
        p_B = np.clip(expit(theta[0] * logit_B + theta[1]), _TINY, 1 - _TINY)
        loss = -(label_B * np.log(p_B) + (1 - label_B) * np.log1p(-p_B)).mean()
        return float(loss + _PRIOR / len(label_B) * ((theta[0] - 1) ** 2 + theta[1] ** 2))

    scale, shift = minimize(loss, [1.0, 0.0], bounds=[_RANGE, (-5.0, 5.0)]).x
    return float(scale), float(shift)


def _personal_share(logit_B: Floats, rest_B: Floats, label_B: Floats, users_B: ArrayLike) -> float:
    """Lower end of the slope's interval, within 0 and 1; the rows of a user count as dependent."""
    share = 1.0
    for _ in range(_STEPS):
        p_B = expit(logit_B + share * rest_B)
        information = float((rest_B**2 * p_B * (1 - p_B)).sum()) + _PRIOR
        share = float(np.clip(share + (rest_B @ (label_B - p_B) - _PRIOR * share) / information, *_SLOPES))
    _, code_B = np.unique(np.asarray(users_B), return_inverse=True)
    score_U = np.bincount(code_B, rest_B * (label_B - p_B))
    error = max(float(np.sqrt(score_U @ score_U)) / information, information**-0.5)
    return float(np.clip(share - _Z * error, 0.0, 1.0))


def _logit(reward: ArrayLike) -> Floats:
    odds: Floats = logit(np.clip(np.asarray(reward, dtype=np.float64), _TINY, 1 - _TINY))
    return odds


def calibrate_ensemble(
    ensemble: Ensemble, encoder: Encoder, batch: Windows, users_B: ArrayLike, mean_C: Floats | None = None
) -> Calibration:
    """Calibrate an ensemble in place, on windows of held-out users with targets, one for each touchpoint."""
    logits_BC, reward_BC, _ = predict(ensemble, encoder, batch)
    logged = labels(batch, encoder)
    calibration = calibrate(
        logits_BC, reward_BC, logged.channel_B, logged.reward_B, users_B, mean_C, ~logged.collected_B
    )
    ensemble.calibrate(*calibration)
    return calibration
