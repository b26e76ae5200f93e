"""Loads windows for training: a part of the log at a time from disk, and a batch at a time for the network.

    train = FolderWindows(folder, "train", encoder)
    for batch in batches(train[0], chunks, workers=0, pinned=False): ...

A windows folder has several files (shards), each with a random sample of the users. The windows of one shard that
belong to a split, such as "train", are called a part. Only one part is in memory at a time, and only the current batch
is padded and encoded. If there is only one shard, it is read once and stays in memory.

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
    """Encoded windows, together with their labels from `Encoder.targets`.

    Attributes:
        channel_BT: Logged channel; -1 for padding and for steps that training ignores.
        clone_BT: Whether the action head learns to choose the logged channel.
    """

    x_BTD: Tensor
    channel_BT: Tensor
    reward_BT: Tensor
    cost_BT: Tensor
    clone_BT: Tensor

    def to(self, device: torch.device) -> Batch:
        """Copy the batch to another device. From pinned memory, the copy is asynchronous."""
        return Batch(*(part.to(device, non_blocking=True) for part in self))


@dataclass(frozen=True)
class EncodedWindows(Dataset[Batch]):
    """Windows in memory, which are padded and encoded only when a batch reads them."""

    windows: WindowBatch
    encoder: Encoder

    def __len__(self) -> int:
        return len(self.windows)

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        """Return the windows at these rows as a batch, in the order of `rows`."""
        windows = self.windows.take(np.asarray(rows, dtype=np.int64))
        x_BTD, _ = self.encoder.encode(windows)
        targets = self.encoder.targets(windows)
        names = ("channel_BT", "reward_BT", "cost_BT", "clone_BT")
        return Batch(*map(torch.from_numpy, (x_BTD, *(targets[name] for name in names))))

    @property
    def outcomes(self) -> int:
        """Number of columns with outcomes of the previous touchpoint, which follow the reward in a token."""
        return len(self.encoder.seen)

    @property
    def stored(self) -> int:
        """Number of columns with stored features, which are at the end of a token."""
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
    """The windows of one split in a windows folder, as a sequence of parts: one part for each file (shard).

    A part is read from disk when it is accessed. Together, the parts contain each touchpoint exactly once as a target.
    """

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
    """The windows of training and validation users, from which a network is trained.

    Attributes:
        train: Windows of training users. The network learns the outcome of each touchpoint in exactly one of them.
        val: Windows of validation users, built in the same way.
        channels: Number of channels in the data set, including channels that the log never chose.
    """

    train: Parts
    val: Parts
    channels: int


def tiles(folder: str | Path, split: str, file: str) -> WindowBatch:
    """Read one file (shard) of a windows folder, and build the windows of a split as in `WindowTable.tiles`."""
    return WindowTable.load(folder, split, file).tiles(split)


def batches(part: EncodedWindows, chunks: Sequence[Ints], workers: int, pinned: bool) -> Iterator[Batch]:
    """Yield one encoded batch for each chunk of row numbers.

    Args:
        chunks: Rows of the windows in each batch.
        workers: Number of processes that encode batches ahead; 0 encodes in this process.
        pinned: Whether to put batches into page-locked memory, from which copies to a GPU are asynchronous.
    """
    loader: DataLoader[Batch] = DataLoader(
        part,
        batch_sampler=[chunk.tolist() for chunk in chunks],
        num_workers=workers,
        collate_fn=_identity,
        # Each DataLoader draws a seed. Without its own generator, it would draw from the global one and change the
        # random numbers of dropout.
        generator=torch.Generator(),
        pin_memory=pinned,
    )
    yield from loader


def _identity(batch: Any) -> Any:
    return batch
