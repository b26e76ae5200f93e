"""Computes the inputs of the baselines: a fixed number of features for each window.

    summary = Summary.of(batch, encoder)                    # may contain NaN and category codes, for trees
    state_BS = States.fit(train, encoder).of(batch)         # only numbers, for linear models and networks

Shapes: B windows, N tokens, P slots of the history (newest touchpoint first), F features, S numbers of a state, C
channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mtorl.arrays import Bools, Floats, Ints
from mtorl.log.columns import Codes
from mtorl.window.encoder import Encoder, Labels
from mtorl.window.on_demand import Windows, in_chunks
from mtorl.window.window import WindowBatch

LATEST = 5  # newest touchpoints with features of their own
HALF_LIVES = (1.0, 3.0, 8.0)  # half-lives of weighted means, in touchpoints
_CLIP = 5.0  # largest absolute z-score
_TINY = 1e-9
_PRIOR = 20.0  # weight of the overall mean, in uses


@dataclass(frozen=True)
class Summary:
    """The features of each window, as one number each; NaN stands for a missing value."""

    values_BF: Floats
    names: tuple[str, ...]
    categorical: tuple[str, ...]  # features that are codes of categories

    @classmethod
    def of(cls, windows: Windows, encoder: Encoder) -> Summary:
        """Compute the features of windows with at most `encoder.window` tokens."""
        parts = [cls._of(chunk, encoder) for chunk in in_chunks(windows)]
        return replace(parts[0], values_BF=np.concatenate([part.values_BF for part in parts]))

    @classmethod
    def _of(cls, batch: WindowBatch, encoder: Encoder) -> Summary:
        history_BP = _history(batch, encoder.window, start=len(encoder.channels))
        there_BP = history_BP >= 0
        channel_BP = np.where(there_BP, batch.prev_channel_N[history_BP], -1)
        size_B = there_BP.sum(1)
        features: dict[str, Floats] = {"touchpoints": size_B.astype(np.float64)}
        for i in range(LATEST):
            features[f"channel_{i + 1}"] = _slot(channel_BP.astype(np.float64), there_BP, i)
        for c, name in enumerate(encoder.channels):
            features[f"uses_{name}"] = (channel_BP == c).sum(1).astype(np.float64)
        for outcome in encoder.seen:
            value_BP = np.where(there_BP, batch.prev_outcomes[outcome][history_BP], 0.0)
            features[f"{outcome}_mean"] = _ratio(value_BP.sum(1), size_B)
            for i in range(LATEST):
                features[f"{outcome}_{i + 1}"] = _slot(value_BP, there_BP, i)
            for half_life in HALF_LIVES:
                weight_BP = there_BP * 0.5 ** (np.arange(history_BP.shape[1]) / half_life)
                features[f"{outcome}_fading_{half_life:g}"] = _ratio((weight_BP * value_BP).sum(1), weight_BP.sum(1))
            for c, name in enumerate(encoder.channels):
                own_BP = channel_BP == c
                features[f"{outcome}_of_{name}"] = _ratio((own_BP * value_BP).sum(1), own_BP.sum(1))
        last_B = np.cumsum(batch.length_B) - 1
        categorical = [f"channel_{i + 1}" for i in range(LATEST)]
        for slot in encoder.slots:
            if slot.source == "outcome":
                continue
            if slot.source == "time":
                features[slot.name] = batch.time[slot.name][last_B]
                continue
            held = {"context": batch.context, "static": batch.static, "feature": batch.features}[slot.source]
            values = held[slot.name]
            at_B = np.arange(len(batch)) if slot.source == "static" else last_B
            if isinstance(values, Codes):
                code = {value: float(i) for i, value in enumerate(slot.values)}
                table = np.array([*(code.get(value, np.nan) for value in values.values), np.nan])
                features[slot.name] = table[values.codes[at_B]]  # the code of null is -1, the index of the last entry
                categorical.append(slot.name)
            else:
                features[slot.name] = values[at_B]
        return cls(np.stack(list(features.values()), axis=1), tuple(features), tuple(categorical))


def _history(batch: WindowBatch, window: int, start: int) -> Ints:
    """Return the token index of each earlier touchpoint, newest first, padded with -1."""
    back_BP = (np.cumsum(batch.length_B) - 1)[:, None] - np.arange(window)
    inside_BP = np.arange(window) < batch.length_B[:, None]
    # The first token of a journey has no previous touchpoint.
    holds_BP = inside_BP & (batch.prev_channel_N[np.where(inside_BP, back_BP, 0)] != start)
    return np.where(holds_BP, back_BP, -1)


def _slot(value_BP: Floats, there_BP: Bools, i: int) -> Floats:
    if i >= value_BP.shape[1]:
        return np.full(len(value_BP), np.nan)
    return np.where(there_BP[:, i], value_BP[:, i], np.nan)


def _ratio(total_B: Floats, count_B: Floats | Ints) -> Floats:
    ratio_B: Floats = np.divide(total_B, count_B, out=np.full(len(total_B), np.nan), where=count_B > 0)
    return ratio_B


@dataclass(frozen=True)
class States:
    """Encodes features as z-scores, one-hot vectors and flags for missing values."""

    encoder: Encoder
    amounts: tuple[int, ...]  # positions of the numeric features
    mean_F: Floats  # mean of each numeric feature in training
    std_F: Floats
    flags: tuple[int, ...]  # numeric features with a flag column
    codes: tuple[tuple[int, int], ...]  # position and number of values of each category

    @classmethod
    def fit(cls, batch: WindowBatch, encoder: Encoder) -> States:
        """Compute the statistics of each feature in training windows."""
        summary = Summary.of(batch, encoder)
        coded = {summary.names.index(name) for name in summary.categorical}
        amounts = tuple(i for i in range(len(summary.names)) if i not in coded)
        values_BF = summary.values_BF[:, amounts]
        known_BF = ~np.isnan(values_BF)
        count_F = np.maximum(known_BF.sum(0), 1)
        mean_F = np.where(known_BF, values_BF, 0.0).sum(0) / count_F
        std_F = np.sqrt((np.where(known_BF, values_BF - mean_F, 0.0) ** 2).sum(0) / count_F)
        # A standard deviation this small is a rounding error of a constant feature.
        std_F = np.where(std_F > _TINY * np.abs(mean_F), std_F, 1.0)
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
        """Return the encoded features (B, S) of each window."""
        values_BF = Summary.of(batch, self.encoder).values_BF
        score_BF = (values_BF[:, self.amounts] - self.mean_F) / self.std_F
        parts = [np.nan_to_num(np.clip(score_BF, -_CLIP, _CLIP), nan=0.0)]
        parts.append(np.isnan(values_BF[:, self.flags]).astype(np.float64))
        for place, values in self.codes:
            parts.append((values_BF[:, place, None] == np.arange(values)).astype(np.float64))
        return np.concatenate(parts, axis=1)


def mean_cost(logged: Labels, channels: int) -> Floats:
    """Return the mean cost (C,) of each channel, shrunk towards the overall mean."""
    uses_C, spent_C = (np.bincount(logged.channel_B, weights, channels) for weights in (None, logged.cost_B))
    cost_C: Floats = (spent_C + _PRIOR * logged.cost_B.mean()) / (uses_C + _PRIOR)
    return cost_C


def everywhere(row_C: Floats, batch: WindowBatch) -> Floats:
    """Repeat `row_C` for each window of the batch."""
    return np.tile(row_C, (len(batch), 1))
