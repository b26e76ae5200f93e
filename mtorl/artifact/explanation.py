"""Explains a forecast by the effect of each earlier touchpoint.

The effects do not add up to the effect of the whole history: if two touchpoints contain the same information, removing
only one of them has no effect.

Shapes: K touchpoints of a window, oldest first; V variants of a window; C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax

from mtorl.arrays import Floats
from mtorl.artifact.artifact import Artifact
from mtorl.log.dataset import DatasetSpec
from mtorl.window.window import Instance, WindowBatch

METHOD = "leave-one-touchpoint-out"


@dataclass(frozen=True)
class Explanation:
    """The effect of each touchpoint on the expected gain and the log-probability of one channel."""

    reward: float
    log_prob: float
    reward_without_past: float
    log_prob_without_past: float
    reward_K: Floats
    log_prob_K: Floats


def explain(artifact: Artifact, instances: Sequence[Instance], channels: Sequence[int]) -> list[Explanation]:
    """Explain the forecast for one channel of each window.

    Raises:
        WindowError: A window is malformed.
    """
    # Validate the original windows first, so that error messages contain their positions.
    WindowBatch.from_instances(instances, artifact.spec)
    variants = [_variants(instance, artifact.spec) for instance in instances]
    batch = WindowBatch.from_instances([variant for group in variants for variant in group], artifact.spec)
    logits_VC, reward_VC, cost_VC = artifact.predict(batch)
    gain_VC = np.maximum(artifact.encoder.unreward(reward_VC, cost_VC), 0.0)
    log_prob_VC = log_softmax(np.asarray(logits_VC, dtype=np.float64), axis=1)
    explanations = []
    end = 0
    for group, channel in zip(variants, channels, strict=True):
        start, end = end, end + len(group)
        gain_V, log_prob_V = gain_VC[start:end, channel], log_prob_VC[start:end, channel]
        explanations.append(
            Explanation(
                reward=float(gain_V[0]),
                log_prob=float(log_prob_V[0]),
                reward_without_past=float(gain_V[-1]),
                log_prob_without_past=float(log_prob_V[-1]),
                reward_K=gain_V[0] - gain_V[1:-1],
                log_prob_K=log_prob_V[0] - log_prob_V[1:-1],
            )
        )
    return explanations


def touchpoints(instance: Instance) -> list[int]:
    """Return the positions of touchpoints in the prev_* lists of a window, oldest first."""
    return [place for place, channel in enumerate(instance["prev_channel"]) if channel is not None]


def without(instance: Instance, place: int, spec: DatasetSpec) -> Instance:
    """Return a copy of the window without the touchpoint at position `place` of the prev_* lists."""
    if len(instance["prev_channel"]) == 1:
        return without_past(instance, spec)
    # A touchpoint's own context is one position before its outcomes. The oldest touchpoint may have no context.
    own = max(place - 1, 0)
    previous = ("prev_channel", "prev_timestamp", *(f"prev_{outcome}" for outcome in spec.window_outcomes))
    return {
        **instance,
        **{name: _without_place(instance[name], place) for name in previous},
        "context": {column.name: _without_place(instance["context"][column.name], own) for column in spec.context},
    }


def without_past(instance: Instance, spec: DatasetSpec) -> Instance:
    """Return a copy of the window with an empty history."""
    return {
        **instance,
        "prev_channel": [None],
        "prev_timestamp": [None],
        **{f"prev_{outcome}": [0.0] for outcome in spec.window_outcomes},
        "context": {column.name: instance["context"][column.name][-1:] for column in spec.context},
    }


def _variants(instance: Instance, spec: DatasetSpec) -> list[Instance]:
    fewer = [without(instance, place, spec) for place in touchpoints(instance)]
    return [instance, *fewer, without_past(instance, spec)]


def _without_place(values: list[Any], place: int) -> list[Any]:
    return values[:place] + values[place + 1 :]
