"""Windows that are already encoded, as a part for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from mtorl.window.loader import Batch


@dataclass(frozen=True)
class Arrays(Dataset[Batch]):
    x_BTD: NDArray[np.float32]
    targets: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.x_BTD)

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        some = [self.x_BTD, *(self.targets[name] for name in ("channel_BT", "reward_BT", "cost_BT"))]
        kinds = (torch.float32, torch.int64, torch.float32, torch.float32)
        found = (torch.as_tensor(a[list(rows)], dtype=k) for a, k in zip(some, kinds, strict=True))
        return Batch(*found)

    @property
    def outcomes(self) -> int:
        return 0

    @property
    def stored(self) -> int:
        return 0

    def means(self) -> tuple[float, float]:
        real_BT = self.targets["channel_BT"] >= 0
        return float(self.targets["reward_BT"][real_BT].mean()), float(self.targets["cost_BT"][real_BT].mean())
