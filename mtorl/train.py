"""The loss and the training loop.

    result = train(x_BTD, targets, val_x_BTD, val_targets, TrainConfig(), channels=4)
    result.model, result.history, result.best_epoch

    loss = action + mu * reward + nu * cost + lam * preference

    action      Cross-entropy over channels at every real step: the paper's L_action, a clone of the logging policy.
    reward      Binary cross-entropy of the *logged* channel's reward with its label in [0, 1]: L_reward. The other
                channels have no label in the log and get no gradient.
    cost        Poisson deviance of the logged channel's cost, in units of the mean cost. Its minimum is the expected
                cost, it accepts zeros, and a few dear exposures do not rule it as they would a squared error. Ours.
    preference  -log sigmoid(m_i - m_j) over random pairs of windows in a batch, i the one with the higher mean reward,
                m the mean log-probability of a window's logged actions: it leans the action head towards journeys
                that went well. It is a pairwise ranking term and not DPO, for there is no reference policy and the
                two windows answer different states; the paper's own term, a KL divergence between the outputs of two
                windows, is not DPO either. It is bounded below by zero and its slope by one, so it cannot run away.

Training stops when validation loss (without preference, which depends on how windows are paired) has not fallen for
`patience` epochs; the weights of the best epoch are kept. What is validated and kept is a running average of the
weights over the last few dozen batches, which varies less from seed to seed. Validation users must not be training
users.

Shape suffixes: B windows, T steps, D encoded token, C channels.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mtorl.model import MTORL, MTORLConfig

Targets = Mapping[str, NDArray[Any]]  # channel_BT (-1 = no target), reward_BT, cost_BT; see Encoder.targets


class TrainingDiverged(RuntimeError):
    """A loss or a gradient stopped being a number."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train."""

    epochs: int = 15  # at most
    batch_size: int = 256
    lr: float = 5e-3  # AdamW; falls to a tenth along a cosine
    weight_decay: float = 0.01
    clip: float = 1.0  # largest gradient norm
    patience: int = 3  # epochs without a better validation loss before stopping
    mu: float = 4.0  # weight of the reward loss
    nu: float = 0.3  # weight of the cost loss
    lam: float = 0.05  # weight of the preference term
    averaging: float = 0.95  # of the running average of weights: what a step keeps of it
    hidden: int = 64
    dropout: float = 0.1
    seed: int = 0
    device: str = "auto"  # "auto" takes a GPU if there is one

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a positive number, got {getattr(self, name)}")
        if not 0 <= self.averaging < 1:
            raise ValueError(f"averaging must be in [0, 1), got {self.averaging}")
        for name in ("weight_decay", "mu", "nu", "lam"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number >= 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class TrainResult:
    """The network of the best epoch, on the CPU and in inference mode."""

    model: MTORL
    history: list[dict[str, float]]  # one dict an epoch, ready for JSON
    best_epoch: int  # counts from 1
    seconds: float


def train(
    x_BTD: NDArray[np.float32],
    targets: Targets,
    val_x_BTD: NDArray[np.float32],
    val_targets: Targets,
    config: TrainConfig,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    *,
    channels: int,
) -> TrainResult:
    """Fit the network.

    Args:
        x_BTD: Encoded training windows that cover each step once.
        targets: Their labels. A step whose channel is -1 (padding, or no valid target) is in no loss; each window needs
            a step that is.
        val_x_BTD: Encoded windows of users that are not in training.
        val_targets: Their labels.
        config: How to train.
        on_epoch: Called with the epoch's history row, for a progress bar.
        channels: Number of channels. The labels cannot tell: a channel may be absent from a training set.

    Raises:
        ValueError: no windows, or an array is not finite.
        TrainingDiverged: a loss or gradient became NaN or infinite.
    """
    started = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    data = _tensors("training", x_BTD, targets, device)
    val_data = _tensors("validation", val_x_BTD, val_targets, device)
    with torch.random.fork_rng(devices=None if torch.cuda.is_available() else []):
        torch.manual_seed(config.seed)
        model = _new_model(data, config, channels).to(device)
        best, history, best_epoch = _fit(model, data, val_data, config, on_epoch)
    model.load_state_dict(best)
    return TrainResult(model.cpu().eval(), history, best_epoch, time.perf_counter() - started)


@dataclass(frozen=True)
class _Data:
    x_BTD: Tensor
    channel_BT: Tensor
    reward_BT: Tensor
    cost_BT: Tensor

    def batches(self, order_B: Tensor, size: int) -> Iterator[_Data]:
        for rows in torch.split(order_B, size):
            yield _Data(self.x_BTD[rows], self.channel_BT[rows], self.reward_BT[rows], self.cost_BT[rows])


def losses(model: MTORL, batch: _Data) -> tuple[dict[str, Tensor], Tensor]:
    """Mean action, reward and cost loss over the real steps of a batch: those with a target.

    Returns:
        The three losses, and the log-probability of each step's logged action (zero at padding).
    """
    real_BT = batch.channel_BT >= 0
    logits_NC, reward_logit_N, cost_N = model.forward_logged(batch.x_BTD, batch.channel_BT)
    log_prob_N = logits_NC.log_softmax(1).gather(1, batch.channel_BT[real_BT].unsqueeze(1)).squeeze(1)
    mean_N = cost_N / model.cost_scale + 1e-6  # softplus may underflow to zero
    seen_N = batch.cost_BT[real_BT] / model.cost_scale
    deviance_N = mean_N - seen_N + torch.xlogy(seen_N, seen_N) - torch.xlogy(seen_N, mean_N)
    terms = {
        "action": -log_prob_N.mean(),
        "reward": F.binary_cross_entropy_with_logits(reward_logit_N, batch.reward_BT[real_BT]),
        "cost": deviance_N.mean(),
    }
    return terms, torch.zeros_like(batch.reward_BT).masked_scatter(real_BT, log_prob_N)


def preference_loss(log_prob_BT: Tensor, reward_BT: Tensor, real_BT: Tensor) -> Tensor:
    """-log sigmoid(margin) over pairs of windows of unequal mean reward; zero if the batch has no such pair.

    Means and not sums over steps: a longer window earns more without being better.
    """
    length_B = real_BT.sum(1)
    score_B = log_prob_BT.sum(1) / length_B
    earned_B = (reward_BT * real_BT).sum(1) / length_B
    # A batch is in random order, so its neighbour is a random partner.
    side_B = torch.sign(earned_B - earned_B.roll(1))
    pairs = side_B.abs().sum().clamp(min=1)
    return -(F.logsigmoid(side_B * (score_B - score_B.roll(1))) * side_B.abs()).sum() / pairs


def _fit(
    model: MTORL,
    data: _Data,
    val_data: _Data,
    config: TrainConfig,
    on_epoch: Callable[[dict[str, float]], None] | None,
) -> tuple[dict[str, Tensor], list[dict[str, float]], int]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs, eta_min=config.lr / 10)
    weights = {"action": 1.0, "reward": config.mu, "cost": config.nu, "preference": config.lam}
    average = copy.deepcopy(model)
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    best_loss, best_epoch = math.inf, 0
    for epoch in range(1, config.epochs + 1):
        started = time.perf_counter()
        model.train()
        sums = dict.fromkeys(weights, 0.0)
        order_B = torch.randperm(len(data.x_BTD)).to(data.x_BTD.device)
        for number, batch in enumerate(data.batches(order_B, config.batch_size), start=1):
            terms, log_prob_BT = losses(model, batch)
            terms["preference"] = preference_loss(log_prob_BT, batch.reward_BT, batch.channel_BT >= 0)
            values = {name: term.item() for name, term in terms.items()}
            _check(values, f"epoch {epoch}, batch {number}")
            optimizer.zero_grad()
            torch.autograd.backward(_weighted(terms, weights))
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip).item()
            _check({"gradient": norm}, f"epoch {epoch}, batch {number}")
            optimizer.step()
            _update_average(average, model, config.averaging)
            for name, value in values.items():
                sums[name] += value * len(batch.x_BTD)
        means = {name: value / len(data.x_BTD) for name, value in sums.items()}
        val_means = _validate(average, val_data)
        _check(val_means, f"epoch {epoch}, validation")
        row = {"epoch": epoch, "lr": float(schedule.get_last_lr()[0])}
        row |= _named("train", means, weights) | _named("val", val_means, weights)
        row["seconds"] = time.perf_counter() - started
        history.append(row)
        schedule.step()
        if row["val_loss"] < best_loss:
            best_loss, best_epoch, best = row["val_loss"], epoch, copy.deepcopy(average.state_dict())
        if on_epoch is not None:
            on_epoch(row)
        if epoch - best_epoch >= config.patience:
            break
    return best, history, best_epoch


@torch.no_grad()
def _update_average(average: MTORL, model: MTORL, keep: float) -> None:
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, 1 - keep)


@torch.inference_mode()
def _validate(model: MTORL, data: _Data) -> dict[str, float]:
    """Losses over all real steps; exact whatever the batch size, because batches are weighted by their steps."""
    model.eval()
    sums: dict[str, float] = {}
    for batch in data.batches(torch.arange(len(data.x_BTD), device=data.x_BTD.device), 1024):
        steps = int((batch.channel_BT >= 0).sum())
        for name, term in losses(model, batch)[0].items():
            sums[name] = sums.get(name, 0.0) + term.item() * steps
    return {name: value / int((data.channel_BT >= 0).sum()) for name, value in sums.items()}


def _weighted(terms: dict[str, Any], weights: dict[str, float]) -> Any:
    return sum(weights[name] * term for name, term in terms.items())


def _named(prefix: str, means: dict[str, float], weights: dict[str, float]) -> dict[str, float]:
    row = {f"{prefix}_{name}": value for name, value in means.items()}
    return {f"{prefix}_loss": _weighted(means, weights), **row}


def _check(values: dict[str, float], where: str) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrainingDiverged(f"{where}: {name} is {value}; lower lr or clip, or look for extreme inputs")


def _new_model(data: _Data, config: TrainConfig, channels: int) -> MTORL:
    """A network whose reward and cost heads start at the mean, so that no step is spent on learning a constant."""
    real_BT = data.channel_BT >= 0
    mean_cost = float(data.cost_BT[real_BT].mean())
    model = MTORL(
        MTORLConfig(
            inputs=data.x_BTD.shape[2],
            channels=channels,
            window=data.x_BTD.shape[1],
            hidden=config.hidden,
            dropout=config.dropout,
            cost_scale=mean_cost if mean_cost > 0 else 1.0,
        )
    )
    mean_reward = min(max(float(data.reward_BT[real_BT].mean()), 1e-4), 1 - 1e-4)
    model.reward.start_at(math.log(mean_reward / (1 - mean_reward)))
    model.cost.start_at(math.log(math.e - 1))  # softplus of it is one mean cost
    return model


def _tensors(which: str, x_BTD: NDArray[np.float32], targets: Targets, device: torch.device | str) -> _Data:
    if len(x_BTD) == 0:
        raise ValueError(f"no {which} windows: the log has too few users")
    for name, array in (("inputs", x_BTD), ("reward_BT", targets["reward_BT"]), ("cost_BT", targets["cost_BT"])):
        if not np.isfinite(array).all():
            raise ValueError(f"{which} {name}: {np.count_nonzero(~np.isfinite(array))} values are not finite")
    return _Data(
        torch.as_tensor(x_BTD, dtype=torch.float32, device=device),
        torch.as_tensor(targets["channel_BT"], dtype=torch.int64, device=device),
        torch.as_tensor(targets["reward_BT"], dtype=torch.float32, device=device),
        torch.as_tensor(targets["cost_BT"], dtype=torch.float32, device=device),
    )
