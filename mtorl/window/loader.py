"""Windows for training: part by part from disk, batch by batch to the network.

    train = FolderWindows(folder, "train", encoder)
    for batch in batches(train[0], chunks, workers=0, pinned=False): ...

A part holds the windows of a split in one shard of a windows folder: a random sample of the users. One part is in
memory at a time, as flat columns; only the current batch is padded and encoded. A single shard is read once.

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
    """Encoded windows and their labels, as `Encoder.targets` gives them."""

    x_BTD: Tensor
    channel_BT: Tensor  # -1 where there is no target
    reward_BT: Tensor
    cost_BT: Tensor
    clone_BT: Tensor  # whether the action head learns the channel

    def to(self, device: torch.device) -> Batch:
        """Copy to another device; from pinned memory without waiting."""
        return Batch(*(part.to(device, non_blocking=True) for part in self))


@dataclass(frozen=True)
class EncodedWindows(Dataset[Batch]):
    """A part: windows in memory, encoded on demand."""

    windows: WindowBatch
    encoder: Encoder

    def __len__(self) -> int:
        return len(self.windows)

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        """The windows at these rows, in this order."""
        windows = self.windows.take(np.asarray(rows, dtype=np.int64))
        x_BTD, _ = self.encoder.encode(windows)
        targets = self.encoder.targets(windows)
        names = ("channel_BT", "reward_BT", "cost_BT", "clone_BT")
        return Batch(*map(torch.from_numpy, (x_BTD, *(targets[name] for name in names))))

    @property
    def outcomes(self) -> int:
        """Columns of a token, after the reward, that hold outcomes of the previous touchpoint."""
        return len(self.encoder.seen)

    @property
    def stored(self) -> int:
        """Columns at the end of a token that hold stored features of its own decision."""
        return self.encoder.stored

    def means(self) -> tuple[float, float]:
        """Mean reward and mean cost of a target."""
        targets = self.windows.targets
        assert targets is not None
        outcomes = targets.take(np.flatnonzero(targets.valid_N)).outcomes
        reward_N = self.encoder.reward(self.encoder.gain.of(outcomes), outcomes["cost"])
        return float(reward_N.mean()), float(outcomes["cost"].mean())


@dataclass(frozen=True)
class FolderWindows:
    """The windows of a split that tile its journeys: a part for each shard of a windows folder, read on demand."""

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
    """The input of a training."""

    train: Parts  # windows that cover each touchpoint once; each has a token with a target
    val: Parts  # the same of users that are not in training
    channels: int  # the labels cannot tell: a channel may be absent from a training set


def tiles(folder: str | Path, split: str, file: str) -> WindowBatch:
    """Windows that tile the journeys of a split in one shard."""
    return WindowTable.load(folder, split, file).tiles(split)


def batches(part: EncodedWindows, chunks: Sequence[Ints], workers: int, pinned: bool) -> Iterator[Batch]:
    """Encoded batches, by processes that work ahead if there are any; a GPU reads pinned memory without the CPU."""
    loader: DataLoader[Batch] = DataLoader(
        part,
        batch_sampler=[chunk.tolist() for chunk in chunks],
        num_workers=workers,
        collate_fn=_identity,
        generator=torch.Generator(),  # seeds for the workers; the global generator is left to dropout
        pin_memory=pinned,
    )
    yield from loader


def _identity(batch: Any) -> Any:
    return batch
