"""Implements behaviour cloning: a network learns to predict the channel that the logged policy chose (Pomerleau 1989).

The predicted reward is the mean reward in training.
"""

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from mtorl.arrays import Floats
from mtorl.baselines.learning import Data, Learned, Schedule, answer, learn, mlp, seeded
from mtorl.window.encoder import Encoder
from mtorl.window.window import WindowBatch

EPOCHS = 15
LR = 2e-3


def fit(train: WindowBatch, val: WindowBatch, encoder: Encoder, seed: int) -> Learned:
    """Train a network to imitate the logged policy."""
    data = Data.of(train, val, encoder)
    with seeded(seed):
        policy = imitate(data)

    def answers(state_BS: Floats) -> tuple[Floats, Floats]:
        logits_BC = answer(policy, state_BS)
        return logits_BC, np.full_like(logits_BC, data.mean_reward)

    return Learned(data.states, answers, data.cost_C)


def imitate(data: Data) -> nn.Module:
    """Train a network whose outputs are the logits of the logged channels."""
    policy = mlp(*data.sizes)

    def loss(rows_B: Tensor) -> Tensor:
        return F.cross_entropy(policy(data.train.state_BS[rows_B]), data.train.channel_B[rows_B])

    def validate() -> float:
        return F.cross_entropy(policy(data.val.state_BS), data.val.channel_B).item()

    learn(policy, len(data.train), loss, Schedule(EPOCHS, LR), validate)
    return policy
