"""Implements a simple baseline: predict the previous channel again, and predict the reward from the last outcome.

Shapes: B windows, C channels, S = C + 1 previous channels, where the last one means the start of a journey, O = 3 last
outcomes.
"""

from dataclasses import dataclass

import numpy as np

from mtorl.arrays import Floats, Ints
from mtorl.baselines.inputs import everywhere, mean_cost
from mtorl.network.predictor import Heads
from mtorl.window.encoder import Encoder, labels
from mtorl.window.window import WindowBatch

_USES = 1.0  # added to each count (Laplace smoothing)
_PRIOR = 20.0  # weight of the mean of all rewards in each of the three mean rewards, in touchpoints
_MISS, _HIT, _START = 0, 1, 2


@dataclass(frozen=True)
class RepeatLast:
    """A fitted `Predictor`."""

    encoder: Encoder
    logits_SC: Floats
    reward_O: Floats
    cost_C: Floats

    def predict(self, batch: WindowBatch) -> Heads:
        """Return action logits, rewards and costs (B, C) at the last step of each window."""
        before_B = batch.prev_channel_N[np.cumsum(batch.length_B) - 1]
        reward_B = self.reward_O[_last_outcome(batch, self.encoder)]
        reward_BC = np.repeat(reward_B[:, None], len(self.cost_C), axis=1)
        return self.logits_SC[before_B], reward_BC, everywhere(self.cost_C, batch)


def fit(train: WindowBatch, val: WindowBatch, encoder: Encoder, seed: int) -> RepeatLast:
    """Count the channels and the rewards in training. Validation users and the seed are not used."""
    del val, seed
    logged = labels(train, encoder)
    channels = len(encoder.channels)
    before_B = train.prev_channel_N[np.cumsum(train.length_B) - 1]
    uses_C = np.bincount(logged.channel_B, minlength=channels) + _USES
    begun_B = before_B < channels
    stay = ((logged.channel_B == before_B).sum() + _USES) / (begun_B.sum() + 2 * _USES)
    leave_CC = np.where(np.eye(channels, dtype=np.bool_), 0.0, uses_C)
    follows_CC = stay * np.eye(channels) + (1 - stay) * leave_CC / leave_CC.sum(axis=1, keepdims=True)
    logits_SC = np.log(np.vstack([follows_CC, uses_C / uses_C.sum()]))
    outcome_B = _last_outcome(train, encoder)
    earned_O, seen_O = (np.bincount(outcome_B, weights, 3) for weights in (logged.reward_B, None))
    reward_O = (earned_O + _PRIOR * logged.reward_B.mean()) / (seen_O + _PRIOR)
    return RepeatLast(encoder, logits_SC, reward_O, mean_cost(logged, channels))


def _last_outcome(batch: WindowBatch, encoder: Encoder) -> Ints:
    """Return the last outcome (B,): `_HIT` for a gain, `_MISS` for no gain, `_START` for no history."""
    last_B = np.cumsum(batch.length_B) - 1
    hit_B = encoder.previous_gain(batch)[last_B] > 0
    outcome_B: Ints = np.where(hit_B, _HIT, _MISS)
    outcome_B[batch.prev_channel_N[last_B] == len(encoder.channels)] = _START
    return outcome_B
