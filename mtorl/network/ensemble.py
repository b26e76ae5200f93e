"""An ensemble: networks that differ only in their seed and predict together, calibrated. An artifact holds one.

    trained = train_ensemble(data, config, members=2)
    calibrate_ensemble(trained.ensemble, encoder, held_out)
    logits_BC, reward_BC, cost_BC = trained.ensemble(x_BTD, length_B)

The mean of the members' probabilities, rewards and costs has a smaller error than a member, the more so the less the
members agree (Lakshminarayanan et al. 2017, arXiv:1612.01474). Two small networks were better than one of twice the
size, and take twice the time of one.

Shapes: B batch, T steps of a window, D encoded token, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from mtorl.network.beside import Beside
from mtorl.network.checkpoint import Checkpoint
from mtorl.network.model import MTORL
from mtorl.network.parallel import Group
from mtorl.network.training import TrainConfig, TrainResult, train
from mtorl.window.loader import TrainingWindows

MEMBERS = 2
_SEED_STEP = 7919  # between the seeds of members: runs with neighbouring seeds share no member
_TINY = 1e-7


class Ensemble(nn.Module):
    """The mean of its members, calibrated: softmax(scale * logits), sigmoid(scale * reward logit + shift).

    The scales are 1 and the shift is 0 until `mtorl.network.calibration` sets them from a held-out split. Once
    `mtorl.network.user_state` has set `state_distance`, a fourth output says how far each user's state is from those of
    the training: that of the first member, for members differ in their seed only.
    """

    action_scale: Tensor
    reward_scale: Tensor
    reward_shift: Tensor

    def __init__(self, members: Sequence[MTORL]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("action_scale", torch.tensor(1.0))
        self.register_buffer("reward_scale", torch.tensor(1.0))
        self.register_buffer("reward_shift", torch.tensor(0.0))
        self.state_distance: nn.Module | None = None

    @property
    def networks(self) -> list[MTORL]:
        """The members."""
        return cast("list[MTORL]", list(self.members))

    def forward(self, x_BTD: Tensor, length_B: Tensor) -> tuple[Tensor, ...]:
        """Action logits, expected reward in [0, 1] and expected cost, at the last real step of each window.

        With a `state_distance`, also the distance (B,) of each window's state.
        """
        states = [member.last_state(x_BTD, length_B) for member in self.networks]
        heads = [member.decode(x_BTD, length_B, h_BH) for member, h_BH in zip(self.networks, states, strict=True)]
        logits, rewards, costs = zip(*heads, strict=True)
        log_probs = torch.stack([logits_BC.log_softmax(-1) for logits_BC in logits])
        logits_BC = log_probs.logsumexp(0) - math.log(len(self.members))
        reward_logit_BC = torch.logit(torch.stack(rewards).mean(0), eps=_TINY)
        reward_BC = torch.sigmoid(reward_logit_BC * self.reward_scale + self.reward_shift)
        answer = (logits_BC * self.action_scale, reward_BC, torch.stack(costs).mean(0))
        return answer if self.state_distance is None else (*answer, self.state_distance(states[0]))

    def calibrate(self, action_scale: float, reward_scale: float, reward_shift: float) -> None:
        """Set the scales of the action logits and of the reward's logit, and the shift of the latter."""
        self.action_scale.fill_(action_scale)
        self.reward_scale.fill_(reward_scale)
        self.reward_shift.fill_(reward_shift)


@dataclass(frozen=True)
class Trained:
    """An ensemble in inference mode, and how each member was trained."""

    ensemble: Ensemble
    members: list[TrainResult]

    @property
    def seconds(self) -> float:
        """Duration of the trainings, added up."""
        return sum(member.seconds for member in self.members)

    @property
    def parameters(self) -> int:
        """Number of weights of all members."""
        return sum(weight.numel() for weight in self.ensemble.parameters())


def train_ensemble(
    data: TrainingWindows,
    config: TrainConfig,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
    *,
    members: int = MEMBERS,
    resume: Checkpoint | None = None,
    group: Group | None = None,
    beside: bool = False,
) -> Trained:
    """Train the members.

    Args:
        data: Windows to train and to validate on.
        config: How to train each member; the members' seeds follow from its seed.
        on_epoch: Called with the member's number, from 0, and the epoch's history row.
        members: Number of members.
        resume: To continue from, if its files are there, and written as training goes on. Each member has a file of its
            own (`Checkpoint.files`); `Checkpoint.remove` removes them. None for no checkpoint.
        group: This process among those of the training; by default it is alone.
        beside: Whether each member but the first trains in a process of its own, on the CPU, all at the same time; else
            one after the other, which comes to the same.

    Raises:
        ValueError: no windows, or too few for the processes.
        TrainingDiverged: a loss or gradient became NaN or infinite.
        CheckpointError: the checkpoint is damaged, or that of another training.
        TrainingFailed: the process of another member was killed.
    """
    settings = [replace(config, seed=config.seed + _SEED_STEP * member) for member in range(members)]
    files = [None if resume is None else resume.of_member(member) for member in range(members)]

    def telling(member: int) -> Callable[[dict[str, float]], None]:
        return lambda row: on_epoch(member, row) if on_epoch is not None else None

    with ExitStack() as stack:
        others = [
            stack.enter_context(Beside(data, settings[member], files[member], telling(member)))
            for member in range(1, members if beside else 1)
        ]

        def on_first(row: dict[str, float]) -> None:
            telling(0)(row)
            for other in others:
                other.tell()

        results = [train(data, settings[0], on_first, resume=files[0], group=group)]
        results += [other.result() for other in others]
    for member in range(len(results), members):
        results.append(train(data, settings[member], telling(member), resume=files[member], group=group))
    return Trained(Ensemble([result.model for result in results]).eval(), results)
