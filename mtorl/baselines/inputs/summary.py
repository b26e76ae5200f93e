"""A window in a few dozen numbers: counts, rates and the latest touchpoints, for models that read no sequences.

    summary = Summary.of(batch, encoder)
    summary.values_BF, summary.names

Only what the model's own tokens hold is used: channel and seen outcomes of the touchpoints in the history, and
time, context, static columns and stored features of the present one (`mtorl.window.encoder.Encoder`).

Shapes: B windows, N tokens, P slots of the history (newest touchpoint first), F features, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtorl.arrays import Floats
from mtorl.log.columns import Codes
from mtorl.window.encoder import Encoder
from mtorl.window.window import WindowBatch

LATEST = 5  # newest touchpoints that have features of their own
HALF_LIVES = (1.0, 3.0, 8.0)  # of fading means, in touchpoints


@dataclass(frozen=True)
class Summary:
    """Features of windows; NaN is a missing value."""

    values_BF: Floats
    names: tuple[str, ...]
    categorical: tuple[str, ...]  # names of the features that are codes, not amounts

    @classmethod
    def of(cls, batch: WindowBatch, encoder: Encoder) -> Summary:
        """Summarise windows of at most `encoder.window` tokens."""
        history_BP = _history(batch, encoder.window, start=len(encoder.channels))
        there_BP = history_BP >= 0
        channel_BP = np.where(there_BP, batch.prev_channel_N[history_BP], -1)
        size_B = there_BP.sum(1)
        features: dict[str, NDArray[np.float64]] = {"touchpoints": size_B.astype(np.float64)}
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
                features[slot.name] = table[values.codes[at_B]]  # null is code -1, the last place
                categorical.append(slot.name)
            else:
                features[slot.name] = values[at_B]
        return cls(np.stack(list(features.values()), axis=1), tuple(features), tuple(categorical))


def _history(batch: WindowBatch, window: int, start: int) -> NDArray[np.int64]:
    """Tokens that hold the touchpoints of each window's history, newest first; -1 where there is none."""
    back_BP = (np.cumsum(batch.length_B) - 1)[:, None] - np.arange(window)
    inside_BP = np.arange(window) < batch.length_B[:, None]
    # The token that starts a journey holds no touchpoint.
    holds_BP = inside_BP & (batch.prev_channel_N[np.where(inside_BP, back_BP, 0)] != start)
    return np.where(holds_BP, back_BP, -1)


def _slot(value_BP: Floats, there_BP: NDArray[np.bool_], i: int) -> Floats:
    if i >= value_BP.shape[1]:
        return np.full(len(value_BP), np.nan)
    return np.where(there_BP[:, i], value_BP[:, i], np.nan)


def _ratio(total_B: Floats, count_B: NDArray[np.float64] | NDArray[np.int64]) -> Floats:
    ratio_B: Floats = np.divide(total_B, count_B, out=np.full(len(total_B), np.nan), where=count_B > 0)
    return ratio_B
