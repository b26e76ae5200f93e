"""An ensemble of networks that differ only in their seed. A model artifact contains one calibrated ensemble.

    trained = train_ensemble(data, config)
    calibrate_ensemble(trained.ensemble, encoder, held_out)
    logits_BC, reward_BC, cost_BC = trained.ensemble(x_BTD, length_B)

An ensemble predicts the mean of its members' probabilities, rewards and costs. This mean has a smaller error than the
prediction of one member, especially if members disagree (Lakshminarayanan et al. 2017, arXiv:1612.01474). In our
measurements, two small networks were better than one network of twice the size. Two take twice as long as one.

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
_SEED_STEP = 7919  # difference between members' seeds, so that runs with consecutive seeds share no member
_TINY = 1e-7
_POLL_SECONDS = 0.5
_rows: Any  # in the subprocess of a member: the queue for its epochs' history rows


class Ensemble(nn.Module):
    """The calibrated mean of several networks.

        action  softmax(scale * logits)
        reward  sigmoid(scale * (m + personal_share * (l_c - m)) + shift_c)     l_c: logit of channel c, m: mean over c

    The scales and the share are 1 and the shifts 0 until `mtorl.network.calibration` sets them. After
    `mtorl.network.user_state` has set `state_distance`, a fourth output is the distance of each user's state from the
    states in training. The first member measures the distance for all, because members differ only in their seed. If
    `future` is set as well, a fifth output is the effect of an exposure on later gain and cost.
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
        """The members."""
        return cast("list[MTORL]", list(self.members))

    def forward(self, x_BTD: Tensor, length_B: Tensor) -> tuple[Tensor, ...]:
        """Action logits, expected reward in [0, 1] and expected cost, at the last real step of each window.

        If set, `state_distance` adds an output, the distance of each window's state (B,), and `future` adds the
        effects on later gain and cost (B, C, 2).
        """
        inputs = self.decoder_inputs(x_BTD, length_B)
        heads = self.heads(inputs)
        if self.state_distance is None:
            return heads
        answer = (*heads, self.state_distance(inputs[0][0]))
        return answer if self.future is None else (*answer, self.future(inputs))

    def decoder_inputs(self, x_BTD: Tensor, length_B: Tensor) -> DecoderInputs:
        """Each member's state (B, H) and memory (B, C, M) at the last real step of each window."""
        return [(one.last_state(x_BTD, length_B), one.memory.at(x_BTD, length_B - 1)) for one in self.networks]

    def inputs_after(self, x_BTD: Tensor, length_BP: Tensor, next_BPD: Tensor) -> DecoderInputs:
        """Decoder inputs at tokens that may follow windows (`MTORL.after`), grouped by window."""
        after = (one.after(x_BTD, length_BP, next_BPD) for one in self.networks)
        return [(h_BPH.flatten(0, 1), memory_BPCM.flatten(0, 1)) for h_BPH, memory_BPCM in after]

    def heads(self, inputs: DecoderInputs) -> tuple[Tensor, Tensor, Tensor]:
        """The calibrated action logits, expected reward and expected cost."""
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
        """Set the scales, shifts and personal share of the formulas in the docstring of this class."""
        self.action_scale.fill_(action_scale)
        self.reward_scale.fill_(reward_scale)
        self.personal_share.fill_(personal_share)
        self.reward_shift_C.copy_(torch.tensor(reward_shift_C))


@dataclass(frozen=True)
class Trained:
    """An ensemble in inference mode, with the training result of each member."""

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
    """Train `MEMBERS` networks, with seeds derived from the seed of the config.

    Args:
        on_epoch: Called with the member's number, from 0, and the epoch's history row.
        resume: Checkpoint to continue from, if it exists, and to write; each member has its own file.
        at_once: Train members concurrently on the CPU, all but the first in subprocesses. Results are bit-identical.

    Raises:
        TrainingFailed: the process of a member was killed. `train` raises further errors.
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


_Training = tuple[int, TrainConfig, Checkpoint | None]  # a member's number, settings and checkpoint


def _train_at_once(
    data: TrainingWindows, trainings: list[_Training], report: Callable[[int, dict[str, float]], None]
) -> list[TrainResult]:
    """Train the first member in this process, and each of the others in a subprocess; `report` gets their epochs."""
    rows = multiprocessing.get_context("spawn").SimpleQueue()
    with worker_processes(len(trainings) - 1, _send_rows_to, rows) as pool:
        others = [pool.submit(_train_member, data, *training) for training in trainings[1:]]

        def on_epoch(row: dict[str, float]) -> None:
            report(0, row)
            follow(0)

        def follow(seconds: float) -> bool:
            """Report the other members' epochs and raise their errors; return whether any member is still training."""
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
