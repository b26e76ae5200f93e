"""Predicts the future value of an exposure: the gain and cost that it adds at the user's later opportunities.

`mtorl.fitting.future` fits this output head without changing the rest of the network.

Shapes: B windows, H state, C channels, M memory, 2 gain and cost.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtorl.network.model import MTORL, Decoder

DecoderInputs = Sequence[tuple[Tensor, Tensor]]
"""Inputs of the decoders: for each member of an ensemble, the state (B, H) and the channel memory (B, C, M)."""


class FutureHead(nn.Module):
    """Predicts the standardised future value from the state and channel memory of one member of the ensemble."""

    level_mean_2: Tensor
    level_scale_2: Tensor
    added_scale_2: Tensor

    def __init__(self, network: MTORL) -> None:
        super().__init__()
        hidden, memory = network.config.hidden, network.memory.width
        self.gain, self.cost = (Decoder(hidden, network.config.channels, memory) for _ in range(2))
        self.level = nn.Sequential(nn.Linear(hidden + memory, hidden), nn.ReLU(), nn.Linear(hidden, 2))
        for name, value in (("level_mean_2", 0.0), ("level_scale_2", 1.0), ("added_scale_2", 1.0)):
            self.register_buffer(name, torch.full((2,), value))

    def forward(self, h_BH: Tensor, memory_BCM: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the later gain and cost without an exposure (B, 2), and their increase by an exposure (B, C, 2).

        The predictions are standardised.
        """
        added_BC2 = torch.stack([self.gain(h_BH, memory_BCM), self.cost(h_BH, memory_BCM)], dim=-1)
        return self.level(torch.cat([h_BH, memory_BCM.mean(1)], dim=-1)), added_BC2


class FutureValue(nn.Module):
    """Predicts the future value of an exposure, as the mean of an ensemble's members."""

    def __init__(self, networks: Sequence[MTORL]) -> None:
        super().__init__()
        self.members = nn.ModuleList(FutureHead(network) for network in networks)

    def forward(self, inputs: DecoderInputs) -> Tensor:
        """Return the later gain and cost that an exposure on each channel adds (B, C, 2)."""
        return self.values(inputs)[1]

    def values(self, inputs: DecoderInputs) -> tuple[Tensor, Tensor]:
        """Return the later gain and cost without an exposure (B, 2), and their increase by an exposure (B, C, 2)."""
        levels, added = [], []
        for head, own in zip(self.members, inputs, strict=True):
            level_B2, added_BC2 = head(*own)
            levels.append(level_B2 * head.level_scale_2 + head.level_mean_2)
            added.append(added_BC2 * head.added_scale_2)
        return torch.stack(levels).mean(0), torch.stack(added).mean(0)
