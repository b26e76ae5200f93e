"""Simulated journeys as encoded windows, for the tests of training.

Shapes: B windows, T steps of a window, D values of an encoded token, C channels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mtorl.network.checkpoint import Checkpoint
from mtorl.network.model import MTORL
from mtorl.network.training import TrainConfig, TrainResult, train
from mtorl.window.loader import Batch, TrainingWindows

T, C = 6, 3
# A token has only the reward of the previous touchpoint's outcomes.
OUTCOMES = 0
# Previous channel or "start", previous reward, and two context columns.
D = C + 2 + 2
COST = np.array([0.2, 0.5, 1.0])  # mean cost by channel
LOGGED = [0.2, 0.3, 0.5]  # probability of each channel in the log
TINY = TrainConfig(epochs=2, batch_size=64, hidden=8, heads=2, device="cpu")
SMALL = TrainConfig(epochs=6, batch_size=64, lr=0.01, hidden=16, device="cpu")


@dataclass(frozen=True)
class EncodedArrays(Dataset[Batch]):
    x_BTD: NDArray[np.float32]
    targets: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.x_BTD)

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        arrays = [self.x_BTD, *(self.targets[name] for name in ("channel_BT", "reward_BT", "cost_BT", "clone_BT"))]
        dtypes = (torch.float32, torch.int64, torch.float32, torch.float32, torch.bool)
        return Batch(*(torch.as_tensor(a[list(rows)], dtype=dtype) for a, dtype in zip(arrays, dtypes, strict=True)))

    @property
    def outcomes(self) -> int:
        return OUTCOMES

    @property
    def stored(self) -> int:
        return 0

    def means(self) -> tuple[float, float]:
        real_BT = self.targets["channel_BT"] >= 0
        return float(self.targets["reward_BT"][real_BT].mean()), float(self.targets["cost_BT"][real_BT].mean())


def journeys(windows: int, seed: int):
    """Return journeys in which channel 0 is best in context 0, and channel 1 in context 1."""
    random = np.random.default_rng(seed)
    length = random.integers(1, T + 1, size=windows)
    real = np.arange(T) < length[:, None]
    context = random.integers(2, size=(windows, T))
    channel = (random.random((windows, T))[..., None] > np.array([0.2, 0.5, 1.0])).sum(-1)
    gain_BTC = np.where(np.arange(C) == context[..., None], 0.7, 0.1)
    reward = (random.random((windows, T)) < np.take_along_axis(gain_BTC, channel[..., None], 2)[..., 0]).astype(float)
    cost = COST[channel] * random.uniform(0.5, 1.5, size=(windows, T))
    x = np.zeros((windows, T, D), dtype=np.float32)
    x[:, 0, C] = 1
    x[:, 1:, :C] = np.eye(C)[channel[:, :-1]]
    x[:, 1:, C + 1] = reward[:, :-1]
    x[..., C + 2 :] = np.eye(2)[context]
    targets = {
        "channel_BT": np.where(real, channel, -1),
        "reward_BT": reward * real,
        "cost_BT": cost * real,
        "clone_BT": real,
    }
    return x * real[..., None], targets, length, gain_BTC


def part(windows: int, seed: int) -> EncodedArrays:
    return EncodedArrays(*journeys(windows, seed)[:2])


def whole_part(windows: int, seed: int) -> EncodedArrays:
    """Return windows that all have T steps.

    A batch's mean loss is then the mean of the losses of its halves.
    """
    x, targets, length, _ = journeys(3 * T * windows, seed)
    whole = np.flatnonzero(length == T)[:windows]
    return EncodedArrays(x[whole], {name: values[whole] for name, values in targets.items()})


def batch_of(x: NDArray[Any], targets: Mapping[str, NDArray[Any]]) -> Batch:
    return EncodedArrays(x, targets).__getitems__(range(len(x)))


def fit(
    config: TrainConfig = SMALL,
    windows: int = 600,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    resume: Checkpoint | None = None,
) -> TrainResult:
    data = TrainingWindows([part(windows, 0)], [part(200, 1)], channels=C)
    return train(data, config, on_epoch, resume=resume)


def every_step(network: MTORL, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return network._decode(network.trunk(x_BTD), network.memory(x_BTD))
