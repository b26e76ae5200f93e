"""The log as sequences with their returns to go, for baselines that condition on them.

    data = Tiles.of(train, encoder)
    return_BT = returns_to_go(batch, encoder, target)

The return to go of a step is what it and the later steps of its journey earned: R_t = r_t + r_{t+1} + ...

Shapes: B windows, T steps, D encoded token, N steps with a target.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtorl.arrays import Floats
from mtorl.baselines.inputs.transitions import ends
from mtorl.log.splits import tile_ends
from mtorl.window.encoder import Encoder
from mtorl.window.labels import labels
from mtorl.window.window import WindowBatch


@dataclass(frozen=True)
class Tiles:
    """Windows laid end to end, so that each touchpoint is in exactly one."""

    x_BTD: Tensor
    return_BT: Tensor
    channel_BT: Tensor  # -1: no target

    @classmethod
    def of(cls, batch: WindowBatch, encoder: Encoder) -> Tiles:
        """Choose from windows with their targets, one for each touchpoint and in the order of the log."""
        ends_B = ends(batch, encoder)
        assert batch.targets is not None
        first_B = np.flatnonzero(np.append(True, ends_B[:-1]))
        step_B = np.arange(len(batch)) - np.repeat(first_B, np.diff(first_B, append=len(batch)))
        tiles = np.flatnonzero(tile_ends(step_B, encoder.window))
        touchpoint_B = batch.targets.touchpoint_N[np.cumsum(batch.length_B) - 1]
        return_B = returns(labels(batch, encoder).reward_B, ends_B)
        return_BT = np.zeros((len(batch), encoder.window), dtype=np.float32)
        return_BT[batch.row_N, batch.step_N] = return_B[np.searchsorted(touchpoint_B, batch.targets.touchpoint_N)]
        arrays = (encoder.encode(batch)[0], return_BT, encoder.targets(batch)["channel_BT"])
        return cls(*(torch.as_tensor(array[tiles]) for array in arrays))

    @property
    def return_N(self) -> Floats:
        """Returns of the steps with a target."""
        return_N: Floats = self.return_BT[self.channel_BT >= 0].double().numpy()
        return return_N

    def __len__(self) -> int:
        return len(self.x_BTD)


def returns(reward_B: Floats, ends_B: NDArray[np.bool_]) -> Floats:
    """Return to go of each touchpoint."""
    total_B = np.cumsum(reward_B)
    end_B = np.flatnonzero(ends_B)[np.cumsum(ends_B) - ends_B]
    return_B: Floats = total_B[end_B] - total_B + reward_B
    return return_B


def returns_to_go(batch: WindowBatch, encoder: Encoder, target: float) -> NDArray[np.float32]:
    """Returns to go of a window's steps if its last step and the later ones are to earn `target`.

    For an earlier step that is the target and the earnings from that step on.
    """
    earned_BT = np.zeros((len(batch), encoder.window))
    earned_BT[batch.row_N, batch.step_N] = encoder.previous_reward(batch)
    # A token holds the reward of the step before it, so the tokens after t hold what was earned from t on.
    since_BT = earned_BT[:, ::-1].cumsum(axis=1)[:, ::-1] - earned_BT
    return (target + since_BT).astype(np.float32)
