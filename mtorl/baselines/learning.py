"""Contains the code that the network baselines share: transitions, the training loop, temperature and reward function.

Shapes: B windows (touchpoints), S numbers of a state, C channels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_softmax
from torch import Tensor, nn

from mtorl.arrays import Bools, Floats, Ints
from mtorl.baselines.inputs import States, everywhere, mean_cost
from mtorl.log.columns import WindowError
from mtorl.network.parallel import one_thread
from mtorl.network.predictor import Heads
from mtorl.window.encoder import Encoder, Labels, labels
from mtorl.window.window import WindowBatch

HIDDEN = 64  # width of the hidden layers
BATCH = 256  # touchpoints per training step
PATIENCE = 3  # epochs without a better validation loss until training stops
WEIGHT_DECAY = 0.01
TRACKING = 0.005  # step of Q' towards Q, as a fraction of the distance
_LOG_T = (math.log(1e-3), math.log(1e3))  # from a nearly greedy to a nearly uniform policy
_BLOCK = 4096  # rows per forward pass


class Step(NamedTuple):
    """A batch of transitions, each from one touchpoint to the next of the same journey."""

    state_BS: Tensor
    channel_B: Tensor
    reward_B: Tensor  # reward label in [0, 1]
    next_BS: Tensor
    goes_on_B: Tensor  # 1 if the journey has a next touchpoint; if 0, next_BS is meaningless


@dataclass(frozen=True)
class Transitions:
    """All transitions of a log, one per touchpoint. The next state of a row is the state of the following row."""

    state_BS: Tensor
    channel_B: Tensor
    reward_B: Tensor
    goes_on_B: Tensor

    @classmethod
    def of(cls, batch: WindowBatch, encoder: Encoder, states: States) -> Transitions:
        """Create the transitions from windows.

        Args:
            batch: One window per touchpoint with its targets, in the order of the log.
        """
        logged = labels(batch, encoder)
        return cls(
            torch.as_tensor(states.of(batch), dtype=torch.float32),
            torch.as_tensor(logged.channel_B),
            torch.as_tensor(logged.reward_B, dtype=torch.float32),
            torch.as_tensor(~ends(batch, encoder), dtype=torch.float32),
        )

    def at(self, rows_B: Tensor) -> Step:
        """Return the transitions of some touchpoints."""
        goes_on_B = self.goes_on_B[rows_B]
        next_BS = self.state_BS[rows_B + goes_on_B.long()]
        return Step(self.state_BS[rows_B], self.channel_B[rows_B], self.reward_B[rows_B], next_BS, goes_on_B)

    def __len__(self) -> int:
        return len(self.state_BS)


def ends(batch: WindowBatch, encoder: Encoder) -> Bools:
    """Return a mask of the touchpoints that end their journey, in the order of the log."""
    if batch.targets is None:
        raise WindowError("this batch was built without targets")
    last_B = np.cumsum(batch.length_B) - 1
    touchpoint_B = batch.targets.touchpoint_N[last_B]
    # A row belongs to the journey of the row above if it is the log's next touchpoint and does not start a journey.
    below_B = touchpoint_B[1:] == touchpoint_B[:-1] + 1
    has_history_B = batch.prev_channel_N[last_B[1:]] < len(encoder.channels)
    return np.append(~(below_B & has_history_B), True)


@dataclass(frozen=True)
class Data:
    """The transitions of training and validation users for a network baseline."""

    states: States
    train: Transitions
    val: Transitions
    logged: Labels  # of the validation windows
    cost_C: Floats  # in training
    mean_reward: float  # in training

    @classmethod
    def of(cls, train: WindowBatch, val: WindowBatch, encoder: Encoder) -> Data:
        """Create the data from windows with their targets, one per touchpoint, in the order of the log."""
        states, logged = States.fit(train, encoder), labels(train, encoder)
        return cls(
            states,
            train=Transitions.of(train, encoder, states),
            val=Transitions.of(val, encoder, states),
            logged=labels(val, encoder),
            cost_C=mean_cost(logged, len(encoder.channels)),
            mean_reward=float(logged.reward_B.mean()),
        )

    @property
    def sizes(self) -> tuple[int, int]:
        """The number of a network's inputs and the number of its outputs."""
        return self.train.state_BS.shape[1], len(self.cost_C)

    def reward_of(self, q_BC: Floats) -> Callable[[Floats], Floats]:
        """Fit, on the validation users, a function that converts Q values to rewards.

        Args:
            q_BC: Q values of the validation windows.
        """
        return reward_of_value(q_BC[np.arange(len(q_BC)), self.logged.channel_B], self.logged.reward_B)


@dataclass(frozen=True)
class Learned:
    """A trained network baseline. It predicts each channel's mean cost in training."""

    states: States
    answers: Callable[[Floats], tuple[Floats, Floats]]  # computes action logits and rewards, (B, C) each, from states
    cost_C: Floats

    def predict(self, batch: WindowBatch) -> Heads:
        """Return action logits, rewards and costs (B, C) at the last step of each window."""
        return *self.answers(self.states.of(batch)), everywhere(self.cost_C, batch)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Set torch's seed and use one thread inside the `with` block."""
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    """Return a network with two hidden layers."""
    sizes = ((inputs, HIDDEN), (HIDDEN, HIDDEN))
    hidden = [layer for size in sizes for layer in (nn.Linear(*size), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(HIDDEN, outputs))


@dataclass(frozen=True)
class Schedule:
    """The length, learning rate and batch size of a training."""

    epochs: int
    lr: float  # falls to a tenth along a cosine curve
    batch: int = BATCH  # rows per training step


def learn(
    network: nn.Module,
    rows: int,
    loss: Callable[[Tensor], Tensor],
    schedule: Schedule,
    validate: Callable[[], float] | None = None,
) -> None:
    """Train a network in place.

    Args:
        loss: Computes the loss of a batch, given the indices of its rows.
        validate: Computes the validation loss. If given, training stops early and keeps the best weights.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=schedule.lr, weight_decay=WEIGHT_DECAY)
    lr = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, schedule.epochs, eta_min=schedule.lr / 10)
    best, best_loss, best_epoch = network.state_dict(), math.inf, 0
    for epoch in range(1, schedule.epochs + 1):
        network.train()
        for rows_B in torch.split(torch.randperm(rows), schedule.batch):
            optimizer.zero_grad()
            torch.autograd.backward(loss(rows_B))
            optimizer.step()
        lr.step()
        network.eval()
        if validate is None:
            continue
        with torch.inference_mode():
            val_loss = validate()
        if val_loss < best_loss:
            best, best_loss, best_epoch = copy.deepcopy(network.state_dict()), val_loss, epoch
        elif epoch - best_epoch >= PATIENCE:
            break
    if validate is not None:
        network.load_state_dict(best)


def learn_values(
    network: nn.Module, q: nn.Module, data: Transitions, loss: Callable[[nn.Module, Step], Tensor], schedule: Schedule
) -> None:
    """Train a network in place by Q-learning.

    Args:
        q: The part of the network that predicts Q values.
        loss: Computes the loss of a batch, given a slow copy of `q` and the transitions of the batch.
    """
    target = copy.deepcopy(q)

    def of_rows(rows_B: Tensor) -> Tensor:
        follow(target, q, TRACKING)
        return loss(target, data.at(rows_B))

    learn(network, len(data), of_rows, schedule)


@torch.no_grad()
def follow(target: nn.Module, network: nn.Module, rate: float) -> None:
    """Move each weight of `target` towards the weight of `network`, by the fraction `rate` of their distance."""
    for slow, fast in zip(target.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast, rate)


@torch.inference_mode()
def answer(network: Callable[[Tensor], Tensor], state_BS: Floats | Tensor) -> Floats:
    """Return the output of a network for many states, computed in blocks to limit memory."""
    blocks = torch.split(torch.as_tensor(state_BS, dtype=torch.float32), _BLOCK)
    output: Floats = torch.cat([network(block) for block in blocks]).double().numpy()
    return output


def temperature(value_BC: Floats, channel_B: Ints) -> float:
    """Return the temperature T with the lowest log-loss of softmax(value / T) on the logged channels."""
    logged = np.arange(len(channel_B)), channel_B

    def loss(log_t: float) -> float:
        return float(-log_softmax(value_BC / math.exp(log_t), axis=1)[logged].mean())

    # The loss is convex in 1 / T, so it has only one minimum in log T.
    return math.exp(minimize_scalar(loss, bounds=_LOG_T, method="bounded").x)


def reward_of_value(value_B: Floats, reward_B: Floats) -> Callable[[Floats], Floats]:
    """Fit the function sigmoid(slope * value + offset), which converts a Q value to an expected reward (Platt 1999).

    The slope is never negative, so the channel with the highest value also has the highest reward.
    """
    mean, std = value_B.mean(), value_B.std() or 1.0
    score_B = (value_B - mean) / std

    def loss(weights: Floats) -> float:
        logit_B = weights[0] * score_B + weights[1]
        return float(np.mean(np.logaddexp(0, logit_B) - reward_B * logit_B))

    slope, offset = minimize(loss, [0.5, 0.0], method="L-BFGS-B", bounds=[(0, 20), (-20, 20)]).x
    return lambda value_BC: expit(float(slope / std) * value_BC + float(offset - slope * mean / std))
