"""Implements the Decision Transformer (Chen et al. 2021, arXiv:2106.01345).

    loss = E[ -log pi(a_t | x_1..t, R_1..t) ],  R_t = r_t + r_{t+1} + ... to the end of the journey

A step is one token here and three in the paper, because x_t already contains the previous action.

Shapes: B windows, T steps, D encoded token, H hidden, C channels, N steps with a target.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mtorl.arrays import Bools, Floats
from mtorl.baselines.inputs import everywhere, mean_cost
from mtorl.baselines.learning import HIDDEN, Schedule, ends, learn, seeded
from mtorl.log.splits import tile_ends
from mtorl.network.predictor import Heads
from mtorl.window.encoder import Encoder, labels
from mtorl.window.window import WindowBatch

TARGET = 0.9  # quantile of the training returns, an input for decisions
LAYERS = 2
HEADS = 1  # number of attention heads
DROPOUT = 0.1
EPOCHS = 12
BATCH = 64
LR = 2e-3
_BLOCK = 512  # windows per forward pass


@dataclass(frozen=True)
class Tiles:
    """Windows that do not overlap: each touchpoint is in exactly one window."""

    x_BTD: Tensor
    return_BT: Tensor
    channel_BT: Tensor  # index of the logged channel, or -1 for a step without target

    @classmethod
    def of(cls, batch: WindowBatch, encoder: Encoder) -> Tiles:
        """Select windows that do not overlap from one window per touchpoint, in the order of the log."""
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
        """The returns (N,) of all steps that have a target."""
        return_N: Floats = self.return_BT[self.channel_BT >= 0].double().numpy()
        return return_N

    def __len__(self) -> int:
        return len(self.x_BTD)


def returns(reward_B: Floats, ends_B: Bools) -> Floats:
    """Return the sum of rewards from each touchpoint to the end of its journey."""
    total_B = np.cumsum(reward_B)
    end_B = np.flatnonzero(ends_B)[np.cumsum(ends_B) - ends_B]
    return_B: Floats = total_B[end_B] - total_B + reward_B
    return return_B


def returns_to_go(batch: WindowBatch, encoder: Encoder, target: float) -> NDArray[np.float32]:
    """Return `target` plus the rewards from each step until the last step."""
    earned_BT = np.zeros((len(batch), encoder.window))
    earned_BT[batch.row_N, batch.step_N] = encoder.previous_reward(batch)
    # The token of a step contains the reward of the step before.
    since_BT = earned_BT[:, ::-1].cumsum(axis=1)[:, ::-1] - earned_BT
    return (target + since_BT).astype(np.float32)


class Transformer(nn.Module):
    """A causal transformer that predicts the channel at each step of a window."""

    def __init__(self, data: Tiles, encoder: Encoder) -> None:
        super().__init__()
        self.return_scale = float(data.return_N.std()) or 1.0
        self.embedding = nn.Linear(encoder.dim + 1, HIDDEN)
        self.position_TH = nn.Parameter(torch.randn(encoder.window, HIDDEN) * 0.02)
        layer = nn.TransformerEncoderLayer(
            HIDDEN, HEADS, 2 * HIDDEN, DROPOUT, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(HIDDEN), enable_nested_tensor=False)
        self.action = nn.Linear(HIDDEN, len(encoder.channels))

    def forward(self, x_BTD: Tensor, return_BT: Tensor) -> Tensor:
        """Return the logits of all channels at each step of each window."""
        tokens = torch.cat([x_BTD, return_BT.unsqueeze(2) / self.return_scale], dim=2)
        mask_TT = nn.Transformer.generate_square_subsequent_mask(x_BTD.shape[1])
        h_BTH = self.layers(self.embedding(tokens) + self.position_TH, mask=mask_TT, is_causal=True)
        logits_BTC: Tensor = self.action(h_BTH)
        return logits_BTC

    def logged(self, data: Tiles, rows_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (N, C) and the logged channels (N,) at all steps with a target."""
        channel_BT = data.channel_BT[rows_B]
        logits_BTC = self(data.x_BTD[rows_B], data.return_BT[rows_B])
        return logits_BTC[channel_BT >= 0], channel_BT[channel_BT >= 0]


@dataclass(frozen=True)
class DecisionTransformer:
    """A fitted `Predictor`."""

    encoder: Encoder
    network: Transformer
    target: float  # input of the network for a decision
    reward_C: Floats
    cost_C: Floats

    def predict(self, batch: WindowBatch) -> Heads:
        """Return action logits, rewards and costs (B, C) at the last step of each window."""
        x_BTD, length_B = self.encoder.encode(batch)
        return_BT = returns_to_go(batch, self.encoder, self.target)
        logits_BC = np.empty((len(batch), len(self.cost_C)))
        with torch.inference_mode():
            for start in range(0, len(batch), _BLOCK):
                rows = slice(start, start + _BLOCK)
                logits_BTC = self.network(torch.from_numpy(x_BTD[rows]), torch.from_numpy(return_BT[rows])).numpy()
                logits_BC[rows] = logits_BTC[np.arange(len(logits_BTC)), length_B[rows] - 1]
        return logits_BC, everywhere(self.reward_C, batch), everywhere(self.cost_C, batch)


def fit(train: WindowBatch, val: WindowBatch, encoder: Encoder, seed: int) -> DecisionTransformer:
    """Train the transformer, and stop early by its loss on validation users."""
    data, val_data = Tiles.of(train, encoder), Tiles.of(val, encoder)
    with seeded(seed):
        network = Transformer(data, encoder)

        def loss(rows_B: Tensor) -> Tensor:
            return F.cross_entropy(*network.logged(data, rows_B))

        def validate() -> float:
            return F.cross_entropy(*network.logged(val_data, torch.arange(len(val_data)))).item()

        learn(network, len(data), loss, Schedule(EPOCHS, LR, BATCH), validate)
    logged, target = labels(train, encoder), float(np.quantile(data.return_N, TARGET))
    cost_C = mean_cost(logged, len(encoder.channels))
    return DecisionTransformer(encoder, network, target, np.full_like(cost_C, logged.reward_B.mean()), cost_C)
