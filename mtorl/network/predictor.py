"""Predicts with MTORL or any baseline: three heads at the last step of each window.

    logits_BC, reward_BC, cost_BC = predict(network, encoder, batch)      # a torch network
    logits_BC, reward_BC, cost_BC = predictor.predict(batch)              # any `Predictor`

Shapes: B windows, T steps of a window, D encoded token, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mtorl.window.encoder import Encoder
from mtorl.window.on_demand import Windows, in_chunks
from mtorl.window.window import WindowBatch

if TYPE_CHECKING:
    from torch import nn

Heads = tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]], NDArray[np.floating[Any]]]
"""Action logits, expected reward in [0, 1] and expected cost in currency units, each [B, C]."""

Network = Callable[[NDArray[np.float32], NDArray[np.int64]], tuple[NDArray[np.floating[Any]], ...]]
"""A network as a function of arrays: (x_BTD, length_B) -> the heads, and possibly further outputs [B, ...]."""


class Predictor(Protocol):
    """A fitted model."""

    def predict(self, batch: WindowBatch) -> Heads:
        """The heads at the last step of each window."""


def predict(network: nn.Module, encoder: Encoder, batch: Windows) -> Heads:
    """The heads of a torch network in inference mode."""
    return heads_of(outputs_of(network, encoder, batch))


def outputs_of(network: nn.Module, encoder: Encoder, batch: Windows) -> tuple[NDArray[np.floating[Any]], ...]:
    """All outputs of a torch network in inference mode: the heads, then any further outputs."""
    import torch

    from mtorl.network.parallel import one_thread

    def outputs(x_BTD: NDArray[np.float32], length_B: NDArray[np.int64]) -> tuple[NDArray[np.floating[Any]], ...]:
        return tuple(part.numpy() for part in network(torch.from_numpy(x_BTD), torch.from_numpy(length_B)))

    with torch.inference_mode(), one_thread():
        return predict_in_chunks(outputs, encoder, batch)


def predict_each(predictor: Predictor, windows: Windows) -> Heads:
    """The heads of windows that are built on demand, chunk by chunk."""
    parts = [predictor.predict(chunk) for chunk in in_chunks(windows)]
    logits_BC, reward_BC, cost_BC = (np.concatenate(part) for part in zip(*parts, strict=True))
    return logits_BC, reward_BC, cost_BC


def heads_of(outputs: tuple[NDArray[np.floating[Any]], ...]) -> Heads:
    """The heads, which are the first three outputs of a network."""
    logits_BC, reward_BC, cost_BC = outputs[:3]
    return logits_BC, reward_BC, cost_BC


def predict_in_chunks(network: Network, encoder: Encoder, batch: Windows) -> tuple[NDArray[np.floating[Any]], ...]:
    """Build and encode the windows in chunks, and concatenate the network's outputs."""
    parts = [network(*encoder.encode(chunk)) for chunk in in_chunks(batch)]
    return parts[0] if len(parts) == 1 else tuple(np.concatenate(part) for part in zip(*parts, strict=True))
