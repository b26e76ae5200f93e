"""The incumbent: channels in the proportions of the log, by segment. No sequence, no learning, hard to beat by luck.

    network = fit(batch, encoder.targets(batch), encoder)
    decide(*network outputs, POLICY, u)

For each value of the data set's segment column (one table if there is none) it tabulates how often each channel was
used, what it earned and what it cost. Its network has the signature of MTORL's, so both arms share one artifact format,
one server and one decision rule; `POLICY` follows the frequencies and explores a tenth of the time.

Shapes: B windows, T steps, D encoded token, S segments (the last is "unknown"), C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtorl.decision import Floats, PolicyParams
from mtorl.windows import Encoder, WindowBatch

POLICY = PolicyParams(advantage_weight=0.0, exploration=0.1, price=0.0)

_USES = 1.0  # pseudo-uses of each channel in a segment (Laplace)
_PRIOR = 20.0  # uses at which a segment's own mean weighs as much as the channel's mean over all segments


class ChannelFrequency(nn.Module):
    """Tables looked up by the segment in the encoded token; the same forward as `model.MTORL`."""

    logits_SC: Tensor
    reward_SC: Tensor
    cost_SC: Tensor

    def __init__(self, logits_SC: Floats, reward_SC: Floats, cost_SC: Floats, segment: tuple[int, int] | None) -> None:
        super().__init__()
        self.segment = segment
        for name, table in (("logits_SC", logits_SC), ("reward_SC", reward_SC), ("cost_SC", cost_SC)):
            self.register_buffer(name, torch.tensor(table, dtype=torch.float32))

    def forward(self, x_BTD: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log frequency, mean reward and mean cost of each channel in each window's segment."""
        # The segment is a user's own and so is in every token; the first one is always real.
        if self.segment is None:
            share_BS = torch.ones_like(x_BTD[:, 0, :1])
        else:
            share_BS = x_BTD[:, 0, self.segment[0] : self.segment[1]]
        return share_BS @ self.logits_SC, share_BS @ self.reward_SC, share_BS @ self.cost_SC


def fit(batch: WindowBatch, targets: Mapping[str, NDArray[Any]], encoder: Encoder) -> ChannelFrequency:
    """Tabulate a log.

    Args:
        batch: Training windows that cover each step once.
        targets: Their labels, from `Encoder.targets`.
        encoder: Encodes windows; says where in a token the segment is.
    """
    x_BTD, _ = encoder.encode(batch)
    segment = encoder.segment_slice()
    segments = 1 if segment is None else segment[1] - segment[0]
    segment_B = np.zeros(len(x_BTD), dtype=np.int64)
    if segment is not None:
        segment_B = x_BTD[:, 0, segment[0] : segment[1]].argmax(axis=1)
    real_BT = targets["channel_BT"] >= 0
    where = np.broadcast_to(segment_B[:, None], real_BT.shape)[real_BT], targets["channel_BT"][real_BT]
    channels = len(encoder.channels)

    def total(values_BT: NDArray[Any]) -> Floats:
        sums_SC = np.zeros((segments, channels))
        np.add.at(sums_SC, where, values_BT[real_BT])
        return sums_SC

    uses_SC = total(np.ones(real_BT.shape))

    def mean(values_BT: NDArray[Any]) -> Floats:
        """Mean of each cell, drawn towards its channel's mean and, for a channel never used, the overall mean."""
        sums_SC = total(values_BT)
        overall = sums_SC.sum() / max(uses_SC.sum(), 1.0)
        channel_C = (sums_SC.sum(0) + _PRIOR * overall) / (uses_SC.sum(0) + _PRIOR)
        mean_SC: Floats = (sums_SC + _PRIOR * channel_C) / (uses_SC + _PRIOR)
        return mean_SC

    frequency_C = (uses_SC.sum(0) + _USES) / (uses_SC.sum() + channels * _USES)
    # A segment starts from the overall frequencies: one that training never saw keeps them.
    smooth_SC = uses_SC + channels * _USES * frequency_C
    logits_SC = np.log(smooth_SC / smooth_SC.sum(axis=1, keepdims=True))
    return ChannelFrequency(logits_SC, mean(targets["reward_BT"]), mean(targets["cost_BT"]), segment)
