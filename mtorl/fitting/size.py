"""How many processes a training is worth: by the size of its data, up to what there is.

    size_for(windows, gpus=4, nodes=2)        # Size(nodes=1, processes=3)

Each process takes `batch_size` windows of every batch, so N of them make N times fewer steps of the optimizer in an
epoch, of N times as many windows. What makes that harmless is that enough steps are left: with so many touchpoints for
each process an epoch has more than a thousand, however many processes there are. On less data a further process would
change what is learned, to save minutes; it takes about as long to start as it would save.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

TOUCHPOINTS_PER_PROCESS = 5_000_000
"""Of the windows folder. At 20 touchpoints in a window, these are 250,000 windows: 1,500 steps of 128 for training."""


@dataclass(frozen=True)
class Size:
    """How a training is spread: nodes, and processes on each, one for each GPU."""

    nodes: int = 1
    processes: int = 1

    @property
    def total(self) -> int:
        """Processes on all nodes."""
        return self.nodes * self.processes


def size_for(windows: str, gpus: int, nodes: int = 1) -> Size:
    """How many processes, and on how many nodes, to train in.

    Args:
        windows: Windows folder.
        gpus: The most GPUs on a node; 0 trains on CPUs, in one process on each node.
        nodes: The most nodes.
    """
    touchpoints = int(json.loads(Path(windows, "manifest.json").read_text())["rows"])
    worth, most = max(1, touchpoints // TOUCHPOINTS_PER_PROCESS), max(1, gpus)
    if worth <= most:
        return Size(1, worth)
    return Size(min(max(1, nodes), math.ceil(worth / most)), most)
