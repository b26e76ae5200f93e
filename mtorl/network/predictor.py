"""What MTORL and every baseline answer: three heads for the last step of each window.

Shapes: B windows, C channels.
"""

from __future__ import annotations

from typing import Protocol

from mtorl.arrays import Floats
from mtorl.window.window import WindowBatch

Heads = tuple[Floats, Floats, Floats]
"""Action logits, expected reward in [0, 1] and expected cost in currency units, each [B, C]."""


class Predictor(Protocol):
    """A fitted model."""

    def predict(self, batch: WindowBatch) -> Heads:
        """Answer for the last step of each window."""
