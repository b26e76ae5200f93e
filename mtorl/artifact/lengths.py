"""Runs an exported model on shorter inputs when all windows of a batch are short, to save time.

Only lengths that give bit-identical results are used, because rounding could change a decision.

Shapes: B windows, T steps of a window, D encoded token.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtorl.network.predictor import Network

_LEAST = 4  # in steps; a shorter length would save no time


def lengths_up_to(window: int) -> tuple[int, ...]:
    """Return the powers of two from `_LEAST` that are below `window`, and `window` itself."""
    powers = (1 << power for power in range(_LEAST.bit_length() - 1, window.bit_length()))
    return (*(length for length in powers if length < window), window)


def exact_lengths(graph: Network, window: int, width: int) -> tuple[int, ...]:
    """Return the numbers of steps for which the graph's outputs are bit-identical to those for `window` steps.

    Args:
        width: Number of values of an encoded token.
    """
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
    """Return a function like `graph` that shortens each batch to the smallest allowed length that fits its windows.

    Args:
        lengths: Allowed numbers of steps, ascending.
    """

    def outputs(x_BTD: NDArray[np.float32], length_B: NDArray[np.int64]) -> tuple[NDArray[np.floating[Any]], ...]:
        steps = lengths[bisect_left(lengths, length_B.max(initial=1))]
        return graph(np.ascontiguousarray(x_BTD[:, :steps]), length_B)

    return outputs
