"""Implements conservative Q-learning (CQL) with discrete actions (Kumar et al. 2020, arXiv:2006.04779).

    loss = alpha E[ log sum_a exp Q(s, a) - Q(s, a_logged) ] + 1/2 E[ (Q(s, a_logged) - y)^2 ]     eq. 4, CQL(H)
    y    = r + gamma Q'(s', argmax_a Q(s', a)),  Q' a slow copy of Q                      van Hasselt et al. 2016

The policy is softmax(Q / T), where T minimises the log-loss on validation users.
"""

from functools import partial

import torch
from torch import Tensor, nn

from mtorl.arrays import Floats
from mtorl.baselines.learning import Data, Learned, Schedule, Step, answer, learn_values, mlp, seeded, temperature
from mtorl.window.encoder import Encoder
from mtorl.window.window import WindowBatch

ALPHA = 1.0  # weight of the loss term that makes values conservative
GAMMA = 0.9  # discount per touchpoint
EPOCHS = 10
LR = 1e-3


def fit(train: WindowBatch, val: WindowBatch, encoder: Encoder, seed: int) -> Learned:
    """Train Q on training users, and fit the temperature and the reward function on validation users."""
    data = Data.of(train, val, encoder)
    with seeded(seed):
        q = mlp(*data.sizes)
        learn_values(q, q, data.train, partial(conservative_loss, q), Schedule(EPOCHS, LR))
    val_BC = answer(q, data.val.state_BS)
    t, reward = temperature(val_BC, data.logged.channel_B), data.reward_of(val_BC)

    def answers(state_BS: Floats) -> tuple[Floats, Floats]:
        q_BC = answer(q, state_BS)
        return q_BC / t, reward(q_BC)

    return Learned(data.states, answers, data.cost_C)


def conservative_loss(q: nn.Module, target: nn.Module, step: Step) -> Tensor:
    """Return the loss of Q for a batch of transitions.

    Args:
        target: The network Q', a slow copy of Q.
    """
    q_BC = q(step.state_BS)
    logged_B = q_BC.gather(1, step.channel_B[:, None]).squeeze(1)
    with torch.no_grad():
        best_B1 = q(step.next_BS).argmax(dim=1, keepdim=True)
        y_B = step.reward_B + GAMMA * step.goes_on_B * target(step.next_BS).gather(1, best_B1).squeeze(1)
    loss: Tensor = ALPHA * (q_BC.logsumexp(dim=1) - logged_B).mean() + 0.5 * (logged_B - y_B).square().mean()
    return loss
