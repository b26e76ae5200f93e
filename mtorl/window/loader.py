"""Loads windows for training: part by part from disk, batch by batch to the network.

    train = FolderWindows(folder, "train", encoder)
    for batch in batches(train[0], chunks, workers=0, pinned=False): ...

A part consists of a split's windows in one shard of a windows folder, and a shard has a random sample of the users. One
part is in memory at a time, as flat columns. Only the current batch is padded and encoded. A single shard is read once.

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
    """Encoded windows and their labels from `Encoder.targets`."""

    x_BTD: Tensor
    channel_BT: Tensor  # -1 where there is no target
    reward_BT: Tensor
    cost_BT: Tensor
    clone_BT: Tensor  # whether the action head learns the channel

    def to(self, device: torch.device) -> Batch:
        """Copy to another device; the copy is asynchronous if the memory is pinned."""
        return Batch(*(part.to(device, non_blocking=True) for part in self))


@dataclass(frozen=True)
class EncodedWindows(Dataset[Batch]):
    """A part: windows in memory that are encoded only when a batch reads them."""

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
        """Width of the previous touchpoint's outcomes, which follow the reward in a token."""
        return len(self.encoder.seen)

    @property
    def stored(self) -> int:
        """Width of the stored features, which are at the end of a token."""
        return self.encoder.stored

    def means(self) -> tuple[float, float]:
        """Mean reward and mean cost of the valid targets."""
        targets = self.windows.targets
        assert targets is not None
        outcomes = targets.take(np.flatnonzero(targets.valid_N)).outcomes
        reward_N = self.encoder.reward(self.encoder.gain.of(outcomes), outcomes["cost"])
        return float(reward_N.mean()), float(outcomes["cost"].mean())


@dataclass(frozen=True)
class FolderWindows:
    """Windows that tile the journeys of a split: one part per shard of a windows folder, read on demand."""

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

    train: Parts  # windows that cover each touchpoint once; each window has a token with a target
    val: Parts  # the same, for validation users
    channels: int  # number of channels; the labels may lack some of them


def tiles(folder: str | Path, split: str, file: str) -> WindowBatch:
    """Windows that tile the journeys of a split in one shard; see `WindowTable.tiles`."""
    return WindowTable.load(folder, split, file).tiles(split)


def batches(part: EncodedWindows, chunks: Sequence[Ints], workers: int, pinned: bool) -> Iterator[Batch]:
    """Encode each chunk of windows in `workers` processes. A GPU can copy `pinned` (page-locked) memory itself."""
    loader: DataLoader[Batch] = DataLoader(
        part,
        batch_sampler=[chunk.tolist() for chunk in chunks],
        num_workers=workers,
        collate_fn=_identity,
        generator=torch.Generator(),  # seeds the workers without drawing from the global generator, which dropout uses
        pin_memory=pinned,
    )
    yield from loader


def _identity(batch: Any) -> Any:
    return batch
