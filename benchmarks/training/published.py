"""The network of the MTORL authors' notebook as it is described: what its training costs is compared with ours.

Two levels of a temporal convolutional network with two weight-normed convolutions each (Bai et al. 2018), one head of
causal attention, two residual LayerNorm layers that share their weights, a click head and a channel head; 512 wide.
Written for this comparison; nothing is ever predicted with it.

Shape suffixes: B batch, T steps, D inputs, H hidden, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class Level(nn.Module):
    """Two dilated causal convolutions and a residual path."""

    def __init__(self, inputs: int, hidden: int, dilation: int, kernel: int = 4) -> None:
        super().__init__()
        self.reach = (kernel - 1) * dilation
        self.first = weight_norm(nn.Conv1d(inputs, hidden, kernel, dilation=dilation))
        self.second = weight_norm(nn.Conv1d(hidden, hidden, kernel, dilation=dilation))
        self.shortcut = nn.Conv1d(inputs, hidden, 1) if inputs != hidden else nn.Identity()

    def forward(self, x_BHT: Tensor) -> Tensor:
        """Same length, past only."""
        out = F.dropout(F.relu(self.first(F.pad(x_BHT, (self.reach, 0)))), 0.1)
        out = F.dropout(F.relu(self.second(F.pad(out, (self.reach, 0)))), 0.1)
        return F.relu(out + self.shortcut(x_BHT))


class PublishedNetwork(nn.Module):
    """Convolutions, attention, channel and click head."""

    def __init__(self, inputs: int, channels: int, hidden: int = 512) -> None:
        super().__init__()
        self.levels = nn.Sequential(Level(inputs, hidden, 1), Level(hidden, hidden, 2))
        self.query, self.key, self.value = (nn.Linear(hidden, hidden) for _ in range(3))
        self.hidden, self.norm = nn.Linear(hidden, hidden), nn.LayerNorm(hidden)
        self.click, self.channel = nn.Linear(hidden, 1), nn.Linear(hidden, channels)

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of channels and of a click at each step."""
        h_BTH = self.levels(x_BTD.transpose(1, 2)).transpose(1, 2)
        steps = h_BTH.shape[1]
        future_TT = torch.ones(steps, steps, dtype=torch.bool, device=h_BTH.device).triu(1)
        score_BTT = self.query(h_BTH) @ self.key(h_BTH).transpose(1, 2) / h_BTH.shape[2] ** 0.5
        out_BTH = F.dropout(score_BTT.masked_fill(future_TT, -1e9).softmax(-1), 0.2) @ self.value(h_BTH)
        for _ in range(2):
            out_BTH = self.norm(out_BTH + F.leaky_relu(self.hidden(out_BTH)))
        click_BT = torch.sigmoid(self.click(F.leaky_relu(self.hidden(h_BTH)))).squeeze(-1)
        return self.channel(out_BTH).softmax(-1), click_BT


def epoch(
    network: PublishedNetwork, x_BTD: Tensor, channel_BT: Tensor, click_BT: Tensor, size: int, bf16: bool = False
) -> None:
    """Train once through the windows, with the notebook's batch size and optimizer; losses always in float32."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for rows in torch.arange(len(x_BTD)).split(size):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            probs_BTC, found_BT = network(x_BTD[rows])
        probs_BTC, found_BT = probs_BTC.float(), found_BT.float()
        loss = F.nll_loss(probs_BTC.clamp(min=1e-8).log().transpose(1, 2), channel_BT[rows], ignore_index=-1)
        loss = loss + 0.08 * F.binary_cross_entropy(found_BT, click_BT[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
