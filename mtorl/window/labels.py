"""Labels of windows: what happened at the last token of each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mtorl.arrays import Bools, Floats, Ints
from mtorl.log.columns import WindowError
from mtorl.window.encoder import Encoder
from mtorl.window.window import WindowBatch


class Labels(NamedTuple):
    """What happened at the last token of each window."""

    channel_B: Ints
    reward_B: Floats  # as the encoder scales it, in [0, 1]
    cost_B: Floats
    collected_B: Bools  # whether it is an own decision that was collected


def labels(batch: WindowBatch, encoder: Encoder) -> Labels:
    """The labels of windows that were built with targets; raises WindowError for others."""
    if batch.targets is None:
        raise WindowError("this batch was built without targets")
    last_B = np.cumsum(batch.length_B) - 1
    outcomes = {name: values_N[last_B] for name, values_N in batch.targets.outcomes.items()}
    reward_B = encoder.reward(encoder.gain.of(outcomes), outcomes["cost"])
    return Labels(batch.targets.channel_N[last_B], reward_B, outcomes["cost"], batch.targets.collected_N[last_B])
