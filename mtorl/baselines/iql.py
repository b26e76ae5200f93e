"""Implements implicit Q-learning (IQL) with discrete actions (Kostrikov et al. 2022, arXiv:2110.06169).

    V:      E[ L(Q'(s, a) - V(s)) ],  L(u) = |tau - 1(u < 0)| u^2          eq. 5
    Q:      E[ (r + gamma V(s') - Q(s, a))^2 ]                             eq. 6
    policy: E[ -exp(beta (Q(s, a) - V(s))) log pi(a | s) ]                 eq. 7

As in the paper, Q is the minimum of two networks, and Q' is a slow copy of Q.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtorl.arrays import Floats
from mtorl.baselines import learning
from mtorl.baselines.learning import Data, Learned, Schedule, Step, Transitions, answer, mlp
from mtorl.window.encoder import Encoder
from mtorl.window.window import WindowBatch

EXPECTILE = 0.7  # tau: V is the mean of Q with 0.5, and its maximum with 1
BETA = 1.0  # weight of the advantage in the policy's loss; with 0, the policy imitates the log
GAMMA = 0.9  # discount per touchpoint
LARGEST = 100.0  # largest weight of a touchpoint in the policy's loss
EPOCHS = 10
LR = 1e-3


class TwinQ(nn.Module):
    """The minimum of two value networks, because a single network tends to overestimate."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(mlp(inputs, channels) for _ in range(2))

    def forward(self, state_BS: Tensor) -> Tensor:
        """Return the smaller value (B, C) of each channel."""
        first, second = self.networks
        return torch.minimum(first(state_BS), second(state_BS))


class Critics(nn.Module):
    """The networks for Q (value of a channel in a state) and V (value of a state)."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.q = TwinQ(inputs, channels)
        self.v = mlp(inputs, 1)


def fit(train: WindowBatch, val: WindowBatch, encoder: Encoder, seed: int) -> Learned:
    """Train Q and V, and then the policy."""
    data = Data.of(train, val, encoder)
    trained, held_out = data.train, data.val
    with learning.seeded(seed):
        critics = Critics(*data.sizes)
        learning.learn_values(critics, critics.q, trained, partial(critics_loss, critics), Schedule(EPOCHS, LR))
        policy = mlp(*data.sizes)
        weight_B, val_weight_B = (advantage_weights(critics, part) for part in (trained, held_out))

        def policy_loss(rows_B: Tensor) -> Tensor:
            return _weighted(policy, trained.state_BS[rows_B], trained.channel_B[rows_B], weight_B[rows_B])

        def validate() -> float:
            return _weighted(policy, held_out.state_BS, held_out.channel_B, val_weight_B).item()

        learning.learn(policy, len(trained), policy_loss, Schedule(EPOCHS, LR), validate)
    reward = data.reward_of(answer(critics.q, held_out.state_BS))

    def answers(state_BS: Floats) -> tuple[Floats, Floats]:
        return answer(policy, state_BS), reward(answer(critics.q, state_BS))

    return Learned(data.states, answers, data.cost_C)


def expectile_loss(gap_B: Tensor, expectile: float) -> Tensor:
    """Return the mean of the squared differences: positive ones times `expectile`, others times 1 - `expectile`.

    Args:
        gap_B: The difference Q' - V at each logged action.
    """
    return ((expectile - (gap_B < 0).float()).abs() * gap_B.square()).mean()


def critics_loss(critics: Critics, target: nn.Module, step: Step) -> Tensor:
    """Return the loss of V plus the losses of both Q networks, given Q', a slow copy of Q."""
    logged_B1 = step.channel_B[:, None]
    with torch.no_grad():
        slow_B1 = target(step.state_BS).gather(1, logged_B1)
        y_B1 = (step.reward_B + GAMMA * step.goes_on_B * critics.v(step.next_BS).squeeze(1))[:, None]
    loss = expectile_loss(slow_B1 - critics.v(step.state_BS), EXPECTILE)
    for q in critics.q.networks:
        loss = loss + F.mse_loss(q(step.state_BS).gather(1, logged_B1), y_B1)
    return loss


@torch.no_grad()
def advantage_weights(critics: Critics, data: Transitions) -> Tensor:
    """Return the weight of each touchpoint in the policy's loss: exp(beta (Q(s, a) - V(s))), at most LARGEST."""
    q_B = critics.q(data.state_BS).gather(1, data.channel_B[:, None]).squeeze(1)
    weight_B: Tensor = (BETA * (q_B - critics.v(data.state_BS).squeeze(1))).exp().clamp(max=LARGEST)
    return weight_B


def _weighted(policy: nn.Module, state_BS: Tensor, channel_B: Tensor, weight_B: Tensor) -> Tensor:
    return (weight_B * F.cross_entropy(policy(state_BS), channel_B, reduction="none")).mean()
