"""Limits the steps that an exported graph computes to the needs of the longest window in a batch.

    lengths = exact_lengths(graph, window=50, width=33)      # (4, 8, 16, 32, 50): stored in model.json
    network = shortened(graph, lengths)                      # computes 8 steps if the longest window has 5

Windows are padded on the right and no step sees a later step, so computing more steps does not change a result. If
lengths are multiples of four, results are bit-identical, because onnxruntime's kernels add four numbers at a time. An
artifact lists only lengths at which the results were bit-identical to those of the whole window (`exact_lengths`). So a
decision does not depend on the lengths of other windows in its batch.

Shapes: B windows, T steps of a window, D encoded token.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtorl.network.predictor import Network

_LEAST = 4  # steps; computing fewer steps saves no time


def lengths_up_to(window: int) -> tuple[int, ...]:
    """Powers of two from `_LEAST` and below the window's length, and the window's length."""
    powers = (1 << power for power in range(_LEAST.bit_length() - 1, window.bit_length()))
    return (*(length for length in powers if length < window), window)


def exact_lengths(graph: Network, window: int, width: int) -> tuple[int, ...]:
    """Lengths at which a graph's results are bit-identical to the whole window's; `width` is that of the tokens."""
    random = np.random.default_rng(0)

    def exact(length: int) -> bool:
        for rows in (1, 2, 9):
            x_BTD = random.random((rows, window, width), dtype=np.float32)
            length_B = random.integers(1, length + 1, rows)
            short = graph(np.ascontiguousarray(x_BTD[:, :length]), length_B)
            if not all(map(np.array_equal, short, graph(x_BTD, length_B))):
                return False
        return True

    *shorter, whole = lengths_up_to(window)
    return (*filter(exact, shorter), whole)


def shortened(graph: Network, lengths: Sequence[int]) -> Network:
    """A graph that runs with the smallest of the (ascending) lengths that fits the longest window of a batch."""

    def outputs(x_BTD: NDArray[np.float32], length_B: NDArray[np.int64]) -> tuple[NDArray[np.floating[Any]], ...]:
        steps = lengths[bisect_left(lengths, length_B.max(initial=1))]
        return graph(np.ascontiguousarray(x_BTD[:, :steps]), length_B)

    return outputs
