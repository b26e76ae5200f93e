"""The training loop.

    data = TrainingWindows(FolderWindows(folder, "train", encoder), FolderWindows(folder, "val", encoder), channels=4)
    result = train(data, TrainConfig())
    result.model, result.history, result.best_epoch

The optimizer is AdamW, with a learning rate that falls along a cosine. Training stops when the validation loss has not
fallen for `patience` epochs, and keeps the weights of the best epoch. These weights are a running average, which varies
less between seeds, and the validation loss is computed with it. The validation loss does not contain the preference
term, because that term depends on how windows are paired. Validation users must not be training users.

The order of the windows depends only on the seed and the epoch, and a checkpoint contains all other state. So a
training that was killed and resumed has the same weights as an uninterrupted one; on a CPU they are bit-identical.

On a GPU, matrix products are computed in bfloat16 and the trunk is compiled. Losses and weights stay in float32. If
torchrun has started several processes, each trains on its share of every batch (`mtorl.network.parallel`).

Shape suffixes: B windows, T steps, D encoded token, C channels.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mtorl.arrays import Ints
from mtorl.log.columns import WindowError
from mtorl.network import messages
from mtorl.network.checkpoint import Checkpoint
from mtorl.network.model import MTORL, MTORLConfig
from mtorl.network.objective import TERMS, Objective, losses
from mtorl.network.parallel import Group, device_of
from mtorl.runtime.errors import InputError
from mtorl.window.loader import EncodedWindows, Parts, TrainingWindows, batches

_LOG = logging.getLogger(__name__)

# Processes that prepare the next batches while the GPU trains.
_GPU_WORKERS = 4
# Attributes of `TrainingLoop` that a checkpoint contains.
_STATEFUL = ("model", "average", "optimizer", "schedule")
# On a GPU, a check for NaN must wait until the GPU has finished, so only every 50th batch is checked.
_GPU_CHECK = 50
_VAL_BATCH = 1024
_LAYOUT = 2  # version of the checkpoint format


class TrainingDiverged(InputError, RuntimeError):
    """A loss or a gradient became NaN or infinite, so training can't continue."""


Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


@pydantic_dataclass(frozen=True, config=ConfigDict(strict=True, allow_inf_nan=False))
class TrainConfig:
    """Settings of a training. docs/model.md explains the weights `mu`, `nu` and `lam` of the loss terms.

    Attributes:
        batch_size: Number of windows in the batch of each process.
        lr: Initial learning rate of AdamW, which falls to a tenth along a cosine.
        clip: Largest norm of the gradient.
        patience: Training stops after this many epochs without a smaller validation loss.
        mu: Weight of the reward loss.
        nu: Weight of the cost loss.
        lam: Weight of the preference term.
        averaging: Decay of the running average of the weights, per optimizer step.
        levels: Number of convolutions; each has twice the dilation of the previous one.
        device: "auto" means a GPU if there is one, else the CPU.
        precision: "auto" means bf16 on a GPU and fp32 on a CPU.
        checkpoint_batches: Batches between two checkpoints in an epoch.
    """

    epochs: Count = 15
    batch_size: Count = 128
    lr: Positive = 3e-3
    weight_decay: Weight = 0.01
    clip: Positive = 1.0
    patience: Count = 3
    mu: Weight = 2.0
    nu: Weight = 0.3
    lam: Weight = 0.05
    averaging: Share = 0.95
    hidden: Count = 64
    levels: Count = 2
    heads: Count = 4
    dropout: Share = 0.2
    convolutions: bool = True
    attention: bool = True
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    checkpoint_batches: Count = 1000

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ValueError(f"heads must divide hidden, got {self.heads} and {self.hidden}")


@dataclass(frozen=True)
class TrainResult:
    """The trained network with the weights of its best epoch, on the CPU and in inference mode.

    Attributes:
        history: The losses of each epoch.
        best_epoch: Epoch with the smallest validation loss; the first epoch is 1.
    """

    model: MTORL
    history: list[dict[str, float]]
    best_epoch: int
    seconds: float

    @property
    def best_val_loss(self) -> float:
        """Smallest validation loss."""
        return self.history[self.best_epoch - 1]["val_loss"]


def train(
    data: TrainingWindows,
    config: TrainConfig,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    *,
    resume: Checkpoint | None = None,
    group: Group | None = None,
) -> TrainResult:
    """Train a network until the validation loss stops falling, and return the weights of the best epoch.

    Args:
        on_epoch: Called by the leading process after each epoch, with its losses and duration.
        resume: Checkpoint to write, and to continue from if its file exists.
        group: The processes that train together; None for one process.

    Raises:
        InputError: There are no windows (WindowError), or too few for the number of processes.
        TrainingDiverged: A loss or gradient became NaN or infinite.
        CheckpointError: The checkpoint is damaged, or belongs to a training with other data or settings.
    """
    group = group or Group()
    device = device_of(config.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        loop = TrainingLoop(data, config, device, group)
        # Dropout must differ between the processes, while the initial weights must be equal.
        torch.manual_seed(config.seed + 1_000_003 * group.rank)
        if resume is not None:
            resolved = {"device": device.type, "precision": "bf16" if loop.bf16 else "fp32", "layout": _LAYOUT}
            settings = {**asdict(config), **resolved, "channels": data.channels, "processes": group.size}
            resume = resume.requiring(settings)
        loop.run(on_epoch, resume)
        model = MTORL(loop.model.config)
    model.load_state_dict(loop.progress.best)
    history = loop.progress.history
    # The sum includes epochs before an interruption.
    return TrainResult(model.eval(), history, loop.progress.best_epoch, sum(row["seconds"] for row in history))


@dataclass
class _Progress:
    """The progress of a training, which is part of a checkpoint.

    Attributes:
        epoch: Number of the current epoch, from 1.
        sums: Each loss term, summed over the epoch's windows so far.
    """

    epoch: int = 1
    batch: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0] * len(TERMS))
    windows: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_loss: float = math.inf
    best_epoch: int = 0


class TrainingLoop:
    """A training in progress, which can save and restore its state."""

    def __init__(self, data: TrainingWindows, config: TrainConfig, device: torch.device, group: Group) -> None:
        self.data, self.config, self.device, self.group = data, config, device, group
        self.model = _new_model(_first_windows("training", data.train), config, data.channels).to(device)
        _first_windows("validation", data.val)
        ema: Any = get_ema_multi_avg_fn(config.averaging)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.model, multi_avg_fn=ema)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self.optimizer, config.epochs, eta_min=config.lr / 10
        )
        self.progress = _Progress()
        self.bf16 = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
        objective: nn.Module = Objective(self.model)
        if device.type == "cuda":
            self.model.compile_trunk()
        if group.size > 1:
            objective = DistributedDataParallel(objective, device_ids=[device] if device.type == "cuda" else None)
        self.objective = objective

    def run(self, on_epoch: Callable[[dict[str, float]], None] | None, checkpoint: Checkpoint | None) -> None:
        """Train all remaining epochs, after restoring the checkpoint if its file exists."""
        if checkpoint is not None and (state := checkpoint.load_together(self.group)) is not None:
            self.restore(state)
            if self.group.leads:
                _LOG.info("resuming from a checkpoint: epoch %d, batch %d", self.progress.epoch, self.progress.batch)
        while not self.finished:
            self.train_epoch(checkpoint)
            row = self.close_epoch()
            if checkpoint is not None:
                self._save(checkpoint)
            if on_epoch is not None and self.group.leads:
                on_epoch(row)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the validation loss has not improved for `patience` epochs."""
        done = self.progress.epoch - 1
        return done >= self.config.epochs or (done > 0 and done - self.progress.best_epoch >= self.config.patience)

    def train_epoch(self, checkpoint: Checkpoint | None = None) -> None:
        """Train on the batches that remain in the current epoch."""
        self.objective.train()
        progress = self.progress
        started = time.perf_counter() - progress.seconds
        sums = torch.tensor(progress.sums, dtype=torch.float64, device=self.device)
        check = _GPU_CHECK if self.device.type == "cuda" else 1
        for number, batch in self._batches():
            where = f"epoch {progress.epoch}, batch {number}"
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                terms = self.objective(*batch.to(self.device))
            loss = self._weighted(terms)
            values = torch.stack([terms[name].detach() for name in TERMS])
            if number % check == 0:
                _check(dict(zip(TERMS, values.tolist(), strict=True)), where)
            loss.backward()  # type: ignore[no-untyped-call]
            sums += values * len(batch.x_BTD)
            progress.windows += len(batch.x_BTD)
            progress.batch = number
            self._step(where, checked=number % check == 0)
            if checkpoint is not None and number % self.config.checkpoint_batches == 0:
                progress.sums, progress.seconds = sums.tolist(), time.perf_counter() - started
                # Check for NaN before saving, so that a diverged training keeps its last good checkpoint.
                _check(dict(zip(TERMS, progress.sums, strict=True)), where)
                self._save(checkpoint)
        progress.sums, progress.seconds = sums.tolist(), time.perf_counter() - started

    def close_epoch(self) -> dict[str, float]:
        """Validate the network, prepare the next epoch, and return this epoch's losses and duration."""
        progress = self.progress
        started = time.perf_counter()
        sums = self.group.total(torch.tensor([*progress.sums, progress.windows], dtype=torch.float64).to(self.device))
        if not sums[-1]:
            raise InputError(messages.NO_BATCH(processes=self.group.size))
        means = dict(zip(TERMS, (sums[:-1] / sums[-1]).tolist(), strict=True))
        _check(means, f"epoch {progress.epoch}")
        val_means = self._validate()
        _check(val_means, f"epoch {progress.epoch}, validation")
        row = {"epoch": progress.epoch, "lr": float(self.schedule.get_last_lr()[0])}
        row |= self._named("train", means) | self._named("val", val_means)
        row["seconds"] = progress.seconds + time.perf_counter() - started
        self.schedule.step()
        if row["val_loss"] < progress.best_loss:
            progress.best_loss, progress.best_epoch = row["val_loss"], progress.epoch
            progress.best = {k: v.detach().cpu().clone() for k, v in self.average.module.state_dict().items()}
        progress.history.append(row)
        progress.epoch, progress.batch, progress.windows, progress.seconds = progress.epoch + 1, 0, 0, 0.0
        progress.sums = [0.0] * len(TERMS)
        return row

    def state(self) -> dict[str, Any]:
        """Return all that an interrupted training needs to continue. All processes must call this together."""
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        # Only random numbers and sums differ between the processes.
        own = {"random": random, "sums": self.progress.sums, "windows": self.progress.windows}
        same = {name: getattr(self, name).state_dict() for name in _STATEFUL}
        return {**same, "processes": self.group.all_of(own), "progress": asdict(self.progress)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the state that an interrupted training saved."""
        for name in _STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        own = state["processes"][self.group.rank]
        torch.set_rng_state(own["random"]["cpu"])
        if "cuda" in own["random"]:
            torch.cuda.set_rng_state(own["random"]["cuda"], self.device)
        self.progress = _Progress(**{**state["progress"], "sums": own["sums"], "windows": own["windows"]})

    def _save(self, checkpoint: Checkpoint) -> None:
        # All processes must call `state`, but only the leading process writes the file.
        state = self.state()
        if self.group.leads:
            checkpoint.save(state)

    def _batches(self) -> Iterator[tuple[int, Any]]:
        """Yield this process's share of the remaining batches of the epoch, each with its number from 1."""
        random = np.random.default_rng([self.config.seed, self.progress.epoch])
        done, skip = 0, self.progress.batch
        for place in random.permutation(len(self.data.train)):
            part = self.data.train[int(place)]
            chunks = self._chunks(random.permutation(len(part)))
            left = chunks[max(0, skip - done) :]
            first = done + len(chunks) - len(left) + 1
            yield from enumerate(self._encoded(part, left), start=first)
            done += len(chunks)

    def _chunks(self, order_B: Ints) -> list[Ints]:
        size, group = self.config.batch_size * self.group.size, self.group
        # Processes wait for each other, so all need batches of equal size.
        if group.size > 1:
            order_B = order_B[: len(order_B) // size * size]
        return [order_B[i : i + size][group.rank :: group.size] for i in range(0, len(order_B), size)]

    def _encoded(self, part: EncodedWindows, chunks: list[Ints]) -> Iterator[Any]:
        on_gpu = self.device.type == "cuda"
        return batches(part, chunks, _GPU_WORKERS if on_gpu else 0, on_gpu)

    def _step(self, where: str, checked: bool) -> None:
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        if checked:
            _check({"gradient": norm.item()}, where)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.model)

    @torch.inference_mode()
    def _validate(self) -> dict[str, float]:
        """Return the mean of each loss over all steps of all validation windows."""
        average: MTORL = self.average.module  # type: ignore[assignment]
        average.eval()
        names = TERMS[:-1]
        sums = torch.zeros(2, len(names), dtype=torch.float64, device=self.device)
        for place in range(len(self.data.val)):
            part = self.data.val[place]
            rows_B = np.arange(self.group.rank, len(part), self.group.size)
            chunks = [rows_B[i : i + _VAL_BATCH] for i in range(0, len(rows_B), _VAL_BATCH)]
            for batch in self._encoded(part, chunks):
                batch = batch.to(self.device)
                terms, _ = losses(average, batch)
                real, cloned = (batch.channel_BT >= 0).sum(), batch.clone_BT.sum()
                steps = torch.stack([cloned if name == "action" else real for name in names])
                sums += torch.stack([torch.stack([terms[name] for name in names]) * steps, steps])
        losses_, steps = self.group.total(sums)
        return dict(zip(names, (losses_ / steps.clamp(min=1)).tolist(), strict=True))

    def _weighted(self, terms: Mapping[str, Tensor]) -> Tensor:
        of = self.config
        return terms["action"] + of.mu * terms["reward"] + of.nu * terms["cost"] + of.lam * terms["preference"]

    def _named(self, prefix: str, means: Mapping[str, float]) -> dict[str, float]:
        terms = {name: torch.tensor(means.get(name, 0.0), dtype=torch.float64) for name in TERMS}
        row = {f"{prefix}_{name}": value for name, value in means.items()}
        return {f"{prefix}_loss": float(self._weighted(terms)), **row}


def _check(values: Mapping[str, float], where: str) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrainingDiverged(messages.DIVERGED(where=where, term=name, value=value))


def _first_windows(which: str, parts: Parts) -> EncodedWindows:
    for place in range(len(parts)):
        if len(part := parts[place]):
            return part
    raise WindowError(messages.NO_WINDOWS(which=which))


def _new_model(part: EncodedWindows, config: TrainConfig, channels: int) -> MTORL:
    """Create a network whose first predictions are the mean reward and mean cost in `part`."""
    mean_reward, mean_cost = part.means()
    example = part.__getitems__([0]).x_BTD
    read = {"channels": channels, "outcomes": part.outcomes, "stored": part.stored}
    chosen = ("hidden", "levels", "heads", "dropout", "convolutions", "attention")
    shape: dict[str, Any] = read | {name: getattr(config, name) for name in chosen}
    _, window, inputs = example.shape
    scale = mean_cost if mean_cost > 0 else 1.0
    model = MTORL(MTORLConfig(inputs=inputs, window=window, cost_scale=scale, **shape))
    mean_reward = min(max(mean_reward, 1e-4), 1 - 1e-4)
    model.reward.start_at(math.log(mean_reward / (1 - mean_reward)))
    # The softplus of this number is 1, which means the mean cost.
    model.cost.start_at(math.log(math.e - 1))
    return model
