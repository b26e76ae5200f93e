"""The incumbent: chooses each channel with its frequency in the log, by segment. It uses no sequence and no training.

    network = fit([batch], encoder)
    decide(Forecast(*network outputs), POLICY, u)

For each value of the data set's segment column (or for all users, if there is none), `fit` tabulates the uses, rewards
and costs of each channel. The tables have the same signature as MTORL's network, so both arms share one artifact
format, one server and one decision rule. `POLICY` follows the frequencies; a tenth of its decisions are random.

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

_USES = 1.0  # pseudo-uses per channel in a segment (Laplace smoothing)
_PRIOR = 20.0  # uses at which a segment's mean has the same weight as the channel's mean over all segments


class ChannelFrequency(nn.Module):
    """Tables that are looked up by the segment in the encoded token; the same forward as `model.MTORL`."""

    logits_SC: Tensor
    reward_SC: Tensor
    cost_SC: Tensor

    def __init__(self, logits_SC: Floats, reward_SC: Floats, cost_SC: Floats, segment: tuple[int, int] | None) -> None:
        super().__init__()
        self.segment = segment
        for name, table in (("logits_SC", logits_SC), ("reward_SC", reward_SC), ("cost_SC", cost_SC)):
            self.register_buffer(name, torch.tensor(table, dtype=torch.float32))

    def forward(self, x_BTD: Tensor, length_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log frequency, mean reward and mean cost of each channel in each window's segment."""
        # The segment is a static column, so every token contains it; the first token is never padding.
        if self.segment is None:
            segment_BS = torch.ones_like(x_BTD[:, 0, :1])
        else:
            segment_BS = x_BTD[:, 0, self.segment[0] : self.segment[1]]
        return segment_BS @ self.logits_SC, segment_BS @ self.reward_SC, segment_BS @ self.cost_SC


def fit(parts: Iterable[WindowBatch], encoder: Encoder) -> ChannelFrequency:
    """Create the tables from training windows that cover each step once, in parts that fit in memory."""
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
        """Return the mean of each cell, shrunk towards its channel's mean, which is shrunk towards the overall mean."""
        overall = sums_SC.sum() / max(uses_SC.sum(), 1.0)
        channel_C = (sums_SC.sum(0) + _PRIOR * overall) / (uses_SC.sum(0) + _PRIOR)
        mean_SC: Floats = (sums_SC + _PRIOR * channel_C) / (uses_SC + _PRIOR)
        return mean_SC

    frequency_C = (uses_SC.sum(0) + _USES) / (uses_SC.sum() + channels * _USES)
    # Pseudo-uses follow the overall frequencies, which a segment without training data therefore has.
    smooth_SC = uses_SC + channels * _USES * frequency_C
    logits_SC = np.log(smooth_SC / smooth_SC.sum(axis=1, keepdims=True))
    return ChannelFrequency(logits_SC, mean(sums_3SC[1]), mean(sums_3SC[2]), segment)
