"""Summaries as plain numbers, for baselines that cannot read missing values and codes as trees can.

    states = States.fit(train, encoder)
    state_BS = states.of(batch)

Shapes: B windows, F features of a summary, S numbers of a state, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtorl.arrays import Floats
from mtorl.baselines.inputs.summary import Summary
from mtorl.window.encoder import Encoder
from mtorl.window.labels import Labels
from mtorl.window.window import WindowBatch

_CLIP = 5.0  # standard deviations, as in the encoder
_TINY = 1e-9
_PRIOR = 20.0  # uses at which a channel's own mean cost weighs as much as that of all channels


@dataclass(frozen=True)
class States:
    """How a summary becomes numbers: amounts are z-scores, codes are one-hot, missing values are 0.

    An amount that is sometimes missing in training gets a flag column that tells so; equal flag columns are kept once.
    """

    encoder: Encoder
    amounts: tuple[int, ...]  # places of the amounts in a summary
    mean_F: Floats  # of the amounts
    std_F: Floats
    flags: tuple[int, ...]  # places of amounts with a flag column
    codes: tuple[tuple[int, int], ...]  # place and number of values of each code

    @classmethod
    def fit(cls, batch: WindowBatch, encoder: Encoder) -> States:
        """Take the statistics from training windows."""
        summary = Summary.of(batch, encoder)
        coded = {summary.names.index(name) for name in summary.categorical}
        amounts = tuple(i for i in range(len(summary.names)) if i not in coded)
        values_BF = summary.values_BF[:, amounts]
        known_BF = ~np.isnan(values_BF)
        count_F = np.maximum(known_BF.sum(0), 1)
        mean_F = np.where(known_BF, values_BF, 0.0).sum(0) / count_F
        std_F = np.sqrt((np.where(known_BF, values_BF - mean_F, 0.0) ** 2).sum(0) / count_F)
        std_F = np.where(std_F > _TINY * np.abs(mean_F), std_F, 1.0)  # the deviation of a constant is rounding alone
        seen: dict[bytes, int] = {}
        for place, known_B in zip(amounts, known_BF.T, strict=True):
            if not known_B.all():
                seen.setdefault(known_B.tobytes(), place)
        codes = []
        for place in sorted(coded):
            value_B = summary.values_BF[:, place]
            codes.append((place, int(np.nanmax(value_B, initial=-1.0)) + 1))
        return cls(encoder, amounts, mean_F, std_F, tuple(seen.values()), tuple(codes))

    def of(self, batch: WindowBatch) -> Floats:
        """The state of each window's decision, state_BS."""
        values_BF = Summary.of(batch, self.encoder).values_BF
        score_BF = (values_BF[:, self.amounts] - self.mean_F) / self.std_F
        parts = [np.nan_to_num(np.clip(score_BF, -_CLIP, _CLIP), nan=0.0)]
        parts.append(np.isnan(values_BF[:, self.flags]).astype(np.float64))
        for place, values in self.codes:
            parts.append((values_BF[:, place, None] == np.arange(values)).astype(np.float64))
        return np.concatenate(parts, axis=1)


def mean_cost(logged: Labels, channels: int) -> Floats:
    """Mean cost of each channel, [C]; a rarely used one is drawn towards the mean of all."""
    uses_C, spent_C = (np.bincount(logged.channel_B, weights, channels) for weights in (None, logged.cost_B))
    cost_C: Floats = (spent_C + _PRIOR * logged.cost_B.mean()) / (uses_C + _PRIOR)
    return cost_C


def everywhere(row_C: Floats, batch: WindowBatch) -> Floats:
    """The same row for each window, [B, C]."""
    return np.tile(row_C, (len(batch), 1))
