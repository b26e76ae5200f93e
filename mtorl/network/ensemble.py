"""Networks that differ in their seed alone and answer as one, calibrated: what an artifact holds.

    trained = train_ensemble(source, held_out, config, members=2, channels=4)
    trained.ensemble.calibrate(*calibrate(...))
    logits_BC, reward_BC, cost_BC = trained.ensemble(x_BTD, length_B)

Means of probabilities, rewards and costs err less than their members do, and more so the less the members agree
(Lakshminarayanan et al. 2017, arXiv:1612.01474). Two small networks are better than one of twice the size, and in
twice the time of one.

Shapes: B batch, T steps of a window, D encoded token, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtorl.network.model import MTORL
from mtorl.network.parallel import Group
from mtorl.network.training import TrainConfig, TrainResult, own_file, train
from mtorl.window.loader import Source

MEMBERS = 2
_SEED_STEP = 7919  # between the seeds of members: those of neighbouring runs stay apart
_TINY = 1e-7


class Ensemble(nn.Module):
    """The mean of its members, then softmax(scale * logits) and sigmoid(scale * logit + shift) of what they say.

    The scales are 1 and the shift 0 until `calibrate` is told what a held-out split says (`mtorl.network.calibration`).
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

    def forward(self, x_BTD: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Action logits, expected reward in [0, 1] and expected cost, at the last real step of each window."""
        logits, rewards, costs = zip(*(member(x_BTD, length_B) for member in self.members), strict=True)
        log_probs = torch.stack([some.log_softmax(-1) for some in logits])
        logits_BC = log_probs.logsumexp(0) - math.log(len(self.members))
        reward_logit_BC = torch.logit(torch.stack(rewards).mean(0), eps=_TINY)
        reward_BC = torch.sigmoid(reward_logit_BC * self.reward_scale + self.reward_shift)
        return logits_BC * self.action_scale, reward_BC, torch.stack(costs).mean(0)

    def calibrate(self, action_scale: float, reward_scale: float, reward_shift: float) -> None:
        """See the class."""
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
        """Of all trainings."""
        return sum(member.seconds for member in self.members)

    @property
    def parameters(self) -> int:
        """Weights of all members."""
        return sum(weight.numel() for weight in self.ensemble.parameters())


def train_ensemble(
    source: Source,
    held_out: Source,
    config: TrainConfig,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
    *,
    channels: int,
    members: int = MEMBERS,
    resume: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    group: Group | None = None,
) -> Trained:
    """Train the members one after the other.

    Args:
        source: See `mtorl.network.training.train`, as the arguments below that it has as well.
        held_out: As there.
        config: Of each member; their seeds follow from its seed.
        on_epoch: Called with the member's number, from 0, and the epoch's history row.
        channels: As there.
        members: How many.
        resume: Checkpoint file; each member has one of its own beside it, see `checkpoint_files`.
        identity: As there.
        group: As there.
    """
    results: list[TrainResult] = []
    for i in range(members):

        def on_row(row: dict[str, float], member: int = i) -> None:
            if on_epoch is not None:
                on_epoch(member, row)

        settings = replace(config, seed=config.seed + _SEED_STEP * i)
        results.append(
            train(
                source,
                held_out,
                settings,
                on_row,
                channels=channels,
                resume=None if resume is None else _of_member(resume, i),
                identity=identity,
                group=group,
            )
        )
    return Trained(Ensemble([result.model for result in results]).eval(), results)


def checkpoint_files(resume: Path, members: int, processes: int) -> list[Path]:
    """All files that a training leaves for going on; of no use once its artifact is there."""
    return [own_file(_of_member(resume, i), rank) for i in range(members) for rank in range(processes)]


def _of_member(resume: Path, member: int) -> Path:
    return resume.with_name(f"{resume.name}.member-{member}")
