"""Calibrates an ensemble's predicted probabilities on held-out users, and shrinks differences between users.

    calibrate_ensemble(ensemble, encoder, held_out, users_B)       # in place

The action logits are multiplied by a scale, the inverse of the temperature of Guo et al. 2017 (arXiv:1706.04599). The
reward has only one logit for each channel, so it gets a scale and a shift, as in Platt 1999. The scales and the shift
are the values with the smallest loss on the held-out users.

The reward logit of a channel is the sum of three parts: the mean over channels, the mean effect of the channel on all
users, and a remainder that differs from user to user. Part of the remainder is noise, so an uncalibrated network
overestimates the differences between users. Therefore the remainder is multiplied by a factor from 0 to 1, the personal
share.

The personal share comes from a regression of the observed outcomes on the remainder. It is the lower end of the 95 %
confidence interval of the slope, clipped to [0, 1]. If it is 0, all users have the same best channel. Then the mean
effects of the channels come from the log, if the log has enough data, so that the policy is the best constant channel.

Shapes: B rows, C channels, U users.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit, logit, logsumexp

from mtorl.arrays import Bools, Floats, Ints
from mtorl.network.predictor import predict
from mtorl.window.encoder import Encoder, labels
from mtorl.window.on_demand import Windows

if TYPE_CHECKING:
    from mtorl.network.ensemble import Ensemble

# Calibration must not replace a network, so a fitted scale stays within these limits.
_RANGE = (0.2, 5.0)
_TINY = 1e-7
# Weight of the penalty that keeps the scales near 1, in rows.
_PRIOR = 1.0
_Z = 1.96
# Lower limit of a channel's mean reward, as a share of the overall mean.
_LEAST_SHARE = 0.1
_STEPS = 20
_SLOPES = (-2.0, 3.0)


class Calibration(NamedTuple):
    """The numbers that calibrate an ensemble's predictions (see `Ensemble`)."""

    action_scale: float
    reward_scale: float
    personal_share: float
    reward_shift_C: list[float]

    def of(self, logits_BC: Floats, reward_BC: Floats) -> tuple[Floats, Floats]:
        """Return calibrated action logits and rewards, given uncalibrated ones."""
        logit_BC = _logit(reward_BC)
        common_B1 = logit_BC.mean(axis=1, keepdims=True)
        shrunk_BC = common_B1 + self.personal_share * (logit_BC - common_B1)
        reward: Floats = expit(shrunk_BC * self.reward_scale + self.reward_shift_C)
        return logits_BC * self.action_scale, reward


def calibrate(
    logits_BC: ArrayLike,
    reward_BC: ArrayLike,
    channel_B: Ints,
    label_B: Floats,
    users_B: ArrayLike,
    mean_C: Floats | None = None,
    clone_B: Bools | None = None,
) -> Calibration:
    """Fit the numbers that calibrate an ensemble, by comparing its predictions for held-out users with the log.

    Args:
        label_B: Observed rewards, from 0 to 1.
        users_B: User of each row, because the rows of one user are correlated.
        mean_C: Mean observed reward of each channel in the log. None means unknown.
        clone_B: Rows on which the action logits are calibrated. None means all rows.
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
    """Return the share of the predicted differences between users that the observed outcomes confirm, from 0 to 1."""
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
    """Calibrate an ensemble in place on windows of held-out users, and return the fitted numbers."""
    logits_BC, reward_BC, _ = predict(ensemble, encoder, batch)
    logged = labels(batch, encoder)
    calibration = calibrate(
        logits_BC, reward_BC, logged.channel_B, logged.reward_B, users_B, mean_C, ~logged.collected_B
    )
    ensemble.calibrate(*calibration)
    return calibration
