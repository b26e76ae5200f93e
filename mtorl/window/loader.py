"""Loads windows for training: it reads one part of the log at a time from disk, and yields batches for the network.

A part contains the windows of one split, such as the training users, from one file (shard) of a windows folder.

Shape suffixes: B windows, T steps, D encoded token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mtorl.arrays import Ints
from mtorl.window.encoder import Encoder
from mtorl.window.table import WindowTable, shards
from mtorl.window.window import WindowBatch


class Batch(NamedTuple):
    """Encoded windows and their labels.

    Attributes:
        channel_BT: Logged channel; -1 for padding and for steps that training ignores.
        clone_BT: Whether the action head learns the logged channel.
    """

    x_BTD: Tensor
    channel_BT: Tensor
    reward_BT: Tensor
    cost_BT: Tensor
    clone_BT: Tensor

    def to(self, device: torch.device) -> Batch:
        """Copy the batch to another device, asynchronously from pinned memory."""
        return Batch(*(part.to(device, non_blocking=True) for part in self))


@dataclass(frozen=True)
class EncodedWindows(Dataset[Batch]):
    """Windows in memory, which are padded and encoded only when a batch reads them."""

    windows: WindowBatch
    encoder: Encoder

    def __len__(self) -> int:
        return len(self.windows)

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        windows = self.windows.take(np.asarray(rows, dtype=np.int64))
        x_BTD, _ = self.encoder.encode(windows)
        targets = self.encoder.targets(windows)
        names = ("channel_BT", "reward_BT", "cost_BT", "clone_BT")
        return Batch(*map(torch.from_numpy, (x_BTD, *(targets[name] for name in names))))

    @property
    def outcomes(self) -> int:
        """Number of columns with outcomes of the previous touchpoint."""
        return len(self.encoder.seen)

    @property
    def stored(self) -> int:
        """Number of columns with stored features."""
        return self.encoder.stored

    def means(self) -> tuple[float, float]:
        """Return the mean reward and the mean cost of all valid targets."""
        targets = self.windows.targets
        assert targets is not None
        outcomes = targets.take(np.flatnonzero(targets.valid_N)).outcomes
        reward_N = self.encoder.reward(self.encoder.gain.of(outcomes), outcomes["cost"])
        return float(reward_N.mean()), float(outcomes["cost"].mean())


@dataclass(frozen=True)
class FolderWindows:
    """The windows of one split in a windows folder. Each item has the windows of one file."""

    folder: str | Path
    split: str
    encoder: Encoder

    @cached_property
    def _files(self) -> tuple[str, ...]:
        return shards(self.folder)

    @cached_property
    def _only(self) -> EncodedWindows:
        return EncodedWindows(tiles(self.folder, self.split, self._files[0]), self.encoder)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, part: int) -> EncodedWindows:
        if len(self) == 1:
            return self._only
        return EncodedWindows(tiles(self.folder, self.split, self._files[part]), self.encoder)


Parts = FolderWindows | list[EncodedWindows]


@dataclass(frozen=True)
class TrainingWindows:
    """The windows of training and validation users.

    Attributes:
        channels: Number of channels, including channels that the log never chose.
    """

    train: Parts
    val: Parts
    channels: int


def tiles(folder: str | Path, split: str, file: str) -> WindowBatch:
    """Read one file of a windows folder, and build a split's training windows."""
    return WindowTable.load(folder, split, file).tiles(split)


def batches(part: EncodedWindows, chunks: Sequence[Ints], workers: int, pinned: bool) -> Iterator[Batch]:
    """Yield one encoded batch for each chunk of row numbers.

    Args:
        workers: Number of processes that encode batches ahead; 0 encodes in this process.
        pinned: Whether to use page-locked memory, for asynchronous copies to a GPU.
    """
    loader: DataLoader[Batch] = DataLoader(
        part,
        batch_sampler=[chunk.tolist() for chunk in chunks],
        num_workers=workers,
        collate_fn=_identity,
        # Without its own generator, the DataLoader would draw a seed from the global one.
        generator=torch.Generator(),
        pin_memory=pinned,
    )
    yield from loader


def _identity(batch: Any) -> Any:
    return batch
