"""Implements the incumbent: a policy that draws channels with the frequencies that they have in the user's segment.

Shapes: B windows, T steps, D encoded token, S segments (the last is "unknown"), C channels.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from mtorl.arrays import Floats
from mtorl.policy.decision import PolicyParams
from mtorl.window.encoder import Encoder
from mtorl.window.window import WindowBatch

POLICY = PolicyParams(advantage_weight=0.0, exploration=0.1, price=0.0)

_USES = 1.0  # added to each count (Laplace smoothing)
_PRIOR = 20.0  # weight of the overall mean, in uses


class ChannelFrequency(nn.Module):
    """Predicts from tables with one row for each user segment, through the same interface as MTORL."""

    logits_SC: Tensor
    reward_SC: Tensor
    cost_SC: Tensor

    def __init__(self, logits_SC: Floats, reward_SC: Floats, cost_SC: Floats, segment: tuple[int, int] | None) -> None:
        super().__init__()
        self.segment = segment
        for name, table in (("logits_SC", logits_SC), ("reward_SC", reward_SC), ("cost_SC", cost_SC)):
            self.register_buffer(name, torch.tensor(table, dtype=torch.float32))

    def forward(self, x_BTD: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the log frequency, mean reward and mean cost of each channel in each window's segment."""
        # The first token is never padding, and all tokens of a window contain the segment.
        if self.segment is None:
            segment_BS = torch.ones_like(x_BTD[:, 0, :1])
        else:
            segment_BS = x_BTD[:, 0, self.segment[0] : self.segment[1]]
        return segment_BS @ self.logits_SC, segment_BS @ self.reward_SC, segment_BS @ self.cost_SC


def fit(parts: Iterable[WindowBatch], encoder: Encoder) -> ChannelFrequency:
    """Count how often each channel was used in each segment, and average its rewards and costs.

    Args:
        parts: Batches of windows that together contain each training touchpoint exactly once as a target.
    """
    segment = encoder.segment_slice()
    channels = len(encoder.channels)
    # uses, rewards and costs
    sums_3SC = np.zeros((3, 1 if segment is None else segment[1] - segment[0], channels))
    for batch in parts:
        targets = batch.targets
        assert targets is not None
        valid_N = targets.valid_N
        outcomes = {name: values_N[valid_N] for name, values_N in targets.outcomes.items()}
        where = encoder.segment_of(batch)[batch.row_N[valid_N]], targets.channel_N[valid_N]
        values = (np.ones(valid_N.sum()), encoder.reward(encoder.gain.of(outcomes), outcomes["cost"]), outcomes["cost"])
        for sums_SC, values_N in zip(sums_3SC, values, strict=True):
            np.add.at(sums_SC, where, values_N)
    uses_SC = sums_3SC[0]

    def mean(sums_SC: Floats) -> Floats:
        """Return the mean per use, shrunk towards the overall mean."""
        overall = sums_SC.sum() / max(uses_SC.sum(), 1.0)
        channel_C = (sums_SC.sum(0) + _PRIOR * overall) / (uses_SC.sum(0) + _PRIOR)
        mean_SC: Floats = (sums_SC + _PRIOR * channel_C) / (uses_SC + _PRIOR)
        return mean_SC

    frequency_C = (uses_SC.sum(0) + _USES) / (uses_SC.sum() + channels * _USES)
    # Smooth with the overall frequencies, so that a segment without data gets these frequencies.
    smooth_SC = uses_SC + channels * _USES * frequency_C
    logits_SC = np.log(smooth_SC / smooth_SC.sum(axis=1, keepdims=True))
    return ChannelFrequency(logits_SC, mean(sums_3SC[1]), mean(sums_3SC[2]), segment)
