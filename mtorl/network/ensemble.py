"""Trains several networks that differ only in their random seed, and averages their predictions (an ensemble).

    trained = train_ensemble(data, config)
    calibrate_ensemble(trained.ensemble, encoder, held_out)
    logits_BC, reward_BC, cost_BC = trained.ensemble(x_BTD, length_B)

The mean of several networks has a smaller error than one network (Lakshminarayanan et al. 2017, arXiv:1612.01474).

Shapes: B batch, T steps of a window, D encoded token, C channels.
"""

import math
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from mtorl.network.checkpoint import Checkpoint
from mtorl.network.future_value import DecoderInputs, FutureValue
from mtorl.network.model import MTORL
from mtorl.network.parallel import Group, TrainingFailed, worker_processes
from mtorl.network.training import TrainConfig, TrainResult, train
from mtorl.window.loader import TrainingWindows

MEMBERS = 2
# The step is large, so that trainings with the seeds 0 and 1 share no network.
_SEED_STEP = 7919
_TINY = 1e-7
_POLL_SECONDS = 0.5
# In a member's subprocess: the queue for its losses.
_rows: Any


class Ensemble(nn.Module):
    """Several networks as one: the calibrated mean of their predictions.

        action  softmax(scale * logits)
        reward  sigmoid(scale * (m + personal_share * (l_c - m)) + shift_c)     l_c: logit of channel c, m: mean over c

    Until the ensemble is calibrated (`mtorl.network.calibration`), scale, personal_share and shift_c have no effect.
    """

    action_scale: Tensor
    reward_scale: Tensor
    personal_share: Tensor
    reward_shift_C: Tensor

    def __init__(self, members: Sequence[MTORL]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("action_scale", torch.tensor(1.0))
        self.register_buffer("reward_scale", torch.tensor(1.0))
        self.register_buffer("personal_share", torch.tensor(1.0))
        self.register_buffer("reward_shift_C", torch.zeros(members[0].config.channels))
        self.state_distance: nn.Module | None = None
        self.future: FutureValue | None = None

    @property
    def networks(self) -> list[MTORL]:
        """The networks of the ensemble."""
        return cast("list[MTORL]", list(self.members))

    def forward(self, x_BTD: Tensor, length_B: Tensor) -> tuple[Tensor, ...]:
        """Predict at the last real step of each window: action logits, expected reward in [0, 1] and expected cost.

        If set, `state_distance` adds an output (B,): each state's distance from the training states. `future` adds an
        output (B, C, 2): the later gain and cost.
        """
        inputs = self.decoder_inputs(x_BTD, length_B)
        heads = self.heads(inputs)
        if self.state_distance is None:
            return heads
        answer = (*heads, self.state_distance(inputs[0][0]))
        return answer if self.future is None else (*answer, self.future(inputs))

    def decoder_inputs(self, x_BTD: Tensor, length_B: Tensor) -> DecoderInputs:
        """Return each member's state (B, H) and channel memory (B, C, M) at the last real step of each window."""
        return [(one.last_state(x_BTD, length_B), one.memory.at(x_BTD, length_B - 1)) for one in self.networks]

    def inputs_after(self, x_BTD: Tensor, length_BP: Tensor, next_BPD: Tensor) -> DecoderInputs:
        """Return each member's state and channel memory after each of P alternative next tokens of each window.

        The result has B * P rows, grouped by window.
        """
        after = (one.after(x_BTD, length_BP, next_BPD) for one in self.networks)
        return [(h_BPH.flatten(0, 1), memory_BPCM.flatten(0, 1)) for h_BPH, memory_BPCM in after]

    def heads(self, inputs: DecoderInputs) -> tuple[Tensor, Tensor, Tensor]:
        """Return the calibrated action logits, expected rewards and expected costs."""
        decoded = [member.decode(*own) for member, own in zip(self.networks, inputs, strict=True)]
        logits, rewards, costs = zip(*decoded, strict=True)
        log_probs = torch.stack([logits_BC.log_softmax(-1) for logits_BC in logits])
        logits_BC = log_probs.logsumexp(0) - math.log(len(self.members))
        reward_logit_BC = torch.logit(torch.stack(rewards).mean(0), eps=_TINY)
        common_B1 = reward_logit_BC.mean(1, keepdim=True)
        shrunk_BC = common_B1 + self.personal_share * (reward_logit_BC - common_B1)
        reward_BC = torch.sigmoid(shrunk_BC * self.reward_scale + self.reward_shift_C)
        return logits_BC * self.action_scale, reward_BC, torch.stack(costs).mean(0)

    def calibrate(
        self, action_scale: float, reward_scale: float, personal_share: float, reward_shift_C: Sequence[float]
    ) -> None:
        """Set the numbers by which predictions are calibrated."""
        self.action_scale.fill_(action_scale)
        self.reward_scale.fill_(reward_scale)
        self.personal_share.fill_(personal_share)
        self.reward_shift_C.copy_(torch.tensor(reward_shift_C))


@dataclass(frozen=True)
class Trained:
    """A trained ensemble, ready for prediction, and the training result of each member."""

    ensemble: Ensemble
    members: list[TrainResult]

    @property
    def seconds(self) -> float:
        """Total duration of the members' trainings."""
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
    resume: Checkpoint | None = None,
    group: Group | None = None,
    at_once: bool = False,
) -> Trained:
    """Train `MEMBERS` networks, each with its own seed.

    Args:
        on_epoch: Called after each epoch with the number of the network, from 0, and the losses.
        resume: Checkpoint to write, and to continue from if its file exists.
        group: The processes that train each member together; None for one process.
        at_once: Train the members at the same time on the CPU, in subprocesses.

    Raises:
        TrainingFailed: A subprocess that trained a member was killed.
    """
    tell = on_epoch or (lambda member, row: None)
    seeded = [replace(config, seed=config.seed + _SEED_STEP * member) for member in range(MEMBERS)]
    kept = [None if resume is None else resume.of_member(member) for member in range(MEMBERS)]
    trainings = list(zip(range(MEMBERS), seeded, kept, strict=True))
    if at_once:
        results = _train_at_once(data, trainings, tell)
    else:
        results = [train(data, own, partial(tell, m), resume=file, group=group) for m, own, file in trainings]
    return Trained(Ensemble([result.model for result in results]).eval(), results)


_Training = tuple[int, TrainConfig, Checkpoint | None]


def _train_at_once(
    data: TrainingWindows, trainings: list[_Training], report: Callable[[int, dict[str, float]], None]
) -> list[TrainResult]:
    rows = multiprocessing.get_context("spawn").SimpleQueue()
    with worker_processes(len(trainings) - 1, _send_rows_to, rows) as pool:
        others = [pool.submit(_train_member, data, *training) for training in trainings[1:]]

        def on_epoch(row: dict[str, float]) -> None:
            report(0, row)
            follow(0)

        def follow(seconds: float) -> bool:
            """Report new epochs, raise errors of subprocesses, and return whether any is still training."""
            ended, unfinished = wait(others, seconds, FIRST_EXCEPTION)
            while not rows.empty():
                report(*rows.get())
            for one in ended:
                one.result()
            return bool(unfinished)

        try:
            _, own, file = trainings[0]
            first = train(data, own, on_epoch, resume=file)
            while follow(_POLL_SECONDS):
                pass
            return [first, *(one.result() for one in others)]
        except BrokenProcessPool as error:
            raise TrainingFailed(
                "the process that trained another network of the ensemble was killed. Unless its output shows another "
                "cause, memory ran out: give the step more memory, or lower batch_size"
            ) from error


def _send_rows_to(rows: Any) -> None:
    global _rows
    _rows = rows


def _train_member(data: TrainingWindows, member: int, config: TrainConfig, resume: Checkpoint | None) -> TrainResult:
    return train(data, config, lambda row: _rows.put((member, row)), resume=resume)
