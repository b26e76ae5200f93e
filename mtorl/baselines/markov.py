"""Implements a Markov model: the previous channel predicts the next channel, and past rewards predict the next reward.

Shapes: B windows, N tokens, C channels, S = C + 1 previous channels, where the last one means the start of a journey.
"""

from dataclasses import dataclass

import numpy as np

from mtorl.arrays import Floats
from mtorl.network.predictor import Heads
from mtorl.window.encoder import Encoder, labels
from mtorl.window.window import WindowBatch

_USES = 1.0  # added to each count (Laplace smoothing)
_PRIOR = 2.0  # weight of the training mean, in touchpoints


@dataclass(frozen=True)
class Markov:
    """A fitted `Predictor`."""

    encoder: Encoder
    logits_SC: Floats
    mean_reward: float
    mean_cost: float

    def predict(self, batch: WindowBatch) -> Heads:
        """Return action logits, rewards and costs (B, C) at the last step of each window."""
        channels = len(self.encoder.channels)
        last_B = np.cumsum(batch.length_B) - 1
        reward_B = self._running(batch, self.encoder.previous_reward(batch), self.mean_reward)
        cost_B = np.full(len(batch), self.mean_cost)
        if "cost" in self.encoder.seen:
            cost_B = self._running(batch, batch.prev_outcomes["cost"], self.mean_cost)
        shape = (len(batch), channels)
        return (
            self.logits_SC[batch.prev_channel_N[last_B]],
            np.broadcast_to(reward_B[:, None], shape).copy(),
            np.broadcast_to(cost_B[:, None], shape).copy(),
        )

    def _running(self, batch: WindowBatch, value_N: Floats, mean: float) -> Floats:
        """Return the mean (B,) of each window's history, shrunk towards the training mean."""
        there_N = batch.prev_channel_N < len(self.encoder.channels)
        total_B = np.bincount(batch.row_N, value_N * there_N, len(batch))
        return (total_B + _PRIOR * mean) / (np.bincount(batch.row_N, there_N, len(batch)) + _PRIOR)


def fit(train: WindowBatch, val: WindowBatch, encoder: Encoder, seed: int) -> Markov:
    """Count how often each channel follows each other channel. Validation users and the seed are not used."""
    del val, seed
    logged = labels(train, encoder)
    channels = len(encoder.channels)
    before_B = train.prev_channel_N[np.cumsum(train.length_B) - 1]
    uses_SC = np.full((channels + 1, channels), _USES)
    np.add.at(uses_SC, (before_B, logged.channel_B), 1.0)
    logits_SC = np.log(uses_SC / uses_SC.sum(axis=1, keepdims=True))
    return Markov(encoder, logits_SC, float(logged.reward_B.mean()), float(logged.cost_B.mean()))
