"""The channel that follows the one before, as often as in training; and each user's running reward and cost.

    predictor = fit(train, val, encoder, seed=0)

No learning beyond counting. Its most probable channel is nearly always the last one where channels are sticky
(repeat-last), and its reward is the user's running rate, which is hard to beat by much.

Shapes: B windows, N tokens, C channels, S = C + 1 channels before (the last: the start of a journey).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtorl.arrays import Floats
from mtorl.network.predictor import Heads
from mtorl.window.encoder import Encoder
from mtorl.window.labels import labels
from mtorl.window.window import WindowBatch

_USES = 1.0  # pseudo-uses of each channel after each other
_PRIOR = 2.0  # touchpoints' worth of the training mean in a user's running mean


@dataclass(frozen=True)
class Markov:
    """See `Predictor`."""

    encoder: Encoder
    logits_SC: Floats
    mean_reward: float
    mean_cost: float

    def predict(self, batch: WindowBatch) -> Heads:
        """See `Predictor`."""
        channels = len(self.encoder.channels)
        last_B = np.cumsum(batch.length_B) - 1
        reward_B = self._running(batch, self.encoder.previous_reward(batch), self.mean_reward)
        cost_B = np.full(len(batch), self.mean_cost)
        if "cost" in self.encoder.immediate:
            cost_B = self._running(batch, batch.prev_outcomes["cost"], self.mean_cost)
        shape = (len(batch), channels)
        return (
            self.logits_SC[batch.prev_channel_N[last_B]],
            np.broadcast_to(reward_B[:, None], shape).copy(),
            np.broadcast_to(cost_B[:, None], shape).copy(),
        )

    def _running(self, batch: WindowBatch, value_N: Floats, mean: float) -> Floats:
        """Mean of a window's past touchpoints, drawn towards the training mean."""
        there_N = batch.prev_channel_N < len(self.encoder.channels)
        total_B = np.bincount(batch.row_N, value_N * there_N, len(batch))
        running_B: Floats = (total_B + _PRIOR * mean) / (np.bincount(batch.row_N, there_N, len(batch)) + _PRIOR)
        return running_B


def fit(train: WindowBatch, val: WindowBatch, encoder: Encoder, seed: int) -> Markov:
    """Count which channel follows which.

    Args:
        train: Windows of training users with their targets, one for each touchpoint.
        val: Of no use here.
        encoder: Of the training windows.
        seed: Of no use here: nothing is left to chance.
    """
    del val, seed
    found = labels(train, encoder)
    channels = len(encoder.channels)
    before_B = train.prev_channel_N[np.cumsum(train.length_B) - 1]
    uses_SC = np.full((channels + 1, channels), _USES)
    np.add.at(uses_SC, (before_B, found.channel_B), 1.0)
    logits_SC = np.log(uses_SC / uses_SC.sum(axis=1, keepdims=True))
    return Markov(encoder, logits_SC, float(found.reward_B.mean()), float(found.cost_B.mean()))
