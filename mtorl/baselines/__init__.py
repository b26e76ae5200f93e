"""Policies to compare with, one file each: all learn from the same windows and answer like MTORL.

    predictor = lightgbm.fit(table.windows("train", targets=True), table.windows("val", targets=True), encoder, seed=0)
    logits_BC, reward_BC, cost_BC = predictor.predict(table.windows("test"))

A window is one touchpoint with its past; what happened at it is the target of the window's last token.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mtorl.decision import Floats
from mtorl.encoder import Encoder
from mtorl.windows import WindowBatch, WindowError

Heads = tuple[Floats, Floats, Floats]
"""Action logits, expected reward in [0, 1] and expected cost in currency units, each [B, C]."""


class Predictor(Protocol):
    """A fitted baseline."""

    def predict(self, batch: WindowBatch) -> Heads:
        """Answer for the last step of each window."""


class Labels(NamedTuple):
    """What happened at the last token of each window."""

    channel_B: NDArray[np.int64]
    reward_B: Floats  # as the encoder scales it, in [0, 1]
    cost_B: Floats


def labels(batch: WindowBatch, encoder: Encoder) -> Labels:
    """The targets of the windows themselves.

    Raises:
        WindowError: the batch was built without targets.
    """
    if batch.targets is None:
        raise WindowError("this batch was built without targets")
    last_B = np.cumsum(batch.length_B) - 1
    outcomes = {name: values_N[last_B] for name, values_N in batch.targets.outcomes.items()}
    reward_B = encoder.reward(outcomes[encoder.gain], outcomes["cost"])
    return Labels(batch.targets.channel_N[last_B], reward_B, outcomes["cost"])
