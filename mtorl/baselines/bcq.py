"""Implements batch-constrained Q-learning (BCQ) with discrete actions (Fujimoto et al. 2019, arXiv:1910.01708).

    G:       E[ -log G(a | s) ], an imitation of the log
    allowed: G(a | s) > tau max_a' G(a' | s)
    Q:       E[ huber(r + gamma Q'(s', a') - Q(s, a)) ],  a' = argmax over allowed a of Q(s', a)

The policy is softmax(Q / T) over the allowed channels. A small share of its decisions is uniform over all channels.
"""

import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import softmax
from torch import Tensor, nn

from mtorl.arrays import Floats
from mtorl.baselines.behaviour_cloning import imitate
from mtorl.baselines.learning import Data, Learned, Schedule, Step, answer, learn_values, mlp, seeded, temperature
from mtorl.window.encoder import Encoder
from mtorl.window.window import WindowBatch

TAU = 0.3  # smallest probability of an allowed channel, relative to the most probable channel
GAMMA = 0.9  # discount per touchpoint
EPOCHS = 10
LR = 1e-3
EXPLORATION = 0.1  # share of uniformly random decisions
_NEVER = -1e9  # value of a channel that is not allowed


def fit(train: WindowBatch, val: WindowBatch, encoder: Encoder, seed: int) -> Learned:
    """Train the imitation network G on the log, and then the value network Q."""
    data = Data.of(train, val, encoder)
    with seeded(seed):
        imitation, q = imitate(data), mlp(*data.sizes)
        learn_values(q, q, data.train, partial(constrained_loss, q, imitation), Schedule(EPOCHS, LR))
    val_BC, channel_B = answer(q, data.val.state_BS), data.logged.channel_B
    masked_BC = masked(val_BC, answer(imitation, data.val.state_BS))
    # The probability of a channel that is not allowed is zero at any temperature.
    allowed_B = masked_BC[np.arange(len(val_BC)), channel_B] > _NEVER
    t, reward = temperature(masked_BC[allowed_B], channel_B[allowed_B]), data.reward_of(val_BC)

    def answers(state_BS: Floats) -> tuple[Floats, Floats]:
        q_BC = answer(q, state_BS)
        greedy_BC = softmax(masked(q_BC, answer(imitation, state_BS)) / t, axis=1)
        return np.log((1 - EXPLORATION) * greedy_BC + EXPLORATION / q_BC.shape[1]), reward(q_BC)

    return Learned(data.states, answers, data.cost_C)


def allowed(logits_BC: Tensor) -> Tensor:
    """Return a mask of the channels that the imitation network finds probable enough."""
    return logits_BC - logits_BC.max(dim=1, keepdim=True).values > math.log(TAU)


def masked(q_BC: Floats, logits_BC: Floats) -> Floats:
    """Return the values (B, C), with `_NEVER` for channels that are not allowed."""
    return np.where(allowed(torch.from_numpy(logits_BC)).numpy(), q_BC, _NEVER)


def constrained_loss(q: nn.Module, imitation: nn.Module, target: nn.Module, step: Step) -> Tensor:
    """Return the loss of Q for a batch of transitions, given the imitation network G and Q', a slow copy of Q."""
    logged_B = q(step.state_BS).gather(1, step.channel_B[:, None]).squeeze(1)
    with torch.no_grad():
        next_BC = q(step.next_BS).masked_fill(~allowed(imitation(step.next_BS)), _NEVER)
        value_B = target(step.next_BS).gather(1, next_BC.argmax(dim=1, keepdim=True)).squeeze(1)
    return F.smooth_l1_loss(logged_B, step.reward_B + GAMMA * step.goes_on_B * value_B)
