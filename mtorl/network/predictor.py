"""Defines the interface for predictions: action logits, rewards and costs, from MTORL or a baseline model.

Shapes: B windows, T steps of a window, D numbers that encode one step, C channels.
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
"""The outputs of the three heads, each [B, C]: action logits, expected reward from 0 to 1, and expected cost in
currency units."""

Network = Callable[[NDArray[np.float32], NDArray[np.int64]], tuple[NDArray[np.floating[Any]], ...]]
"""Type of a network as a function of numpy arrays: it gets x_BTD and length_B, and returns the three heads and possibly
further outputs [B, ...]."""


class Predictor(Protocol):
    """A fitted model that predicts action logits, rewards and costs for windows."""

    def predict(self, batch: WindowBatch) -> Heads:
        """Return action logits, expected rewards and expected costs at the last step of each window."""


def predict(network: nn.Module, encoder: Encoder, batch: Windows) -> Heads:
    """Return the action logits, expected rewards and expected costs that a torch network predicts."""
    return heads_of(outputs_of(network, encoder, batch))


def outputs_of(network: nn.Module, encoder: Encoder, batch: Windows) -> tuple[NDArray[np.floating[Any]], ...]:
    """Return all outputs of a torch network for windows, computed with one thread."""
    import torch

    from mtorl.network.parallel import one_thread

    def outputs(x_BTD: NDArray[np.float32], length_B: NDArray[np.int64]) -> tuple[NDArray[np.floating[Any]], ...]:
        return tuple(part.numpy() for part in network(torch.from_numpy(x_BTD), torch.from_numpy(length_B)))

    with torch.inference_mode(), one_thread():
        return predict_in_chunks(outputs, encoder, batch)


def predict_each(predictor: Predictor, windows: Windows) -> Heads:
    """Return the predictions for windows, one chunk at a time."""
    parts = [predictor.predict(chunk) for chunk in in_chunks(windows)]
    logits_BC, reward_BC, cost_BC = (np.concatenate(part) for part in zip(*parts, strict=True))
    return logits_BC, reward_BC, cost_BC


def heads_of(outputs: tuple[NDArray[np.floating[Any]], ...]) -> Heads:
    """Return the first three outputs of a network: action logits, rewards and costs."""
    logits_BC, reward_BC, cost_BC = outputs[:3]
    return logits_BC, reward_BC, cost_BC


def predict_in_chunks(network: Network, encoder: Encoder, batch: Windows) -> tuple[NDArray[np.floating[Any]], ...]:
    """Build and encode windows one chunk at a time, and concatenate the network's outputs."""
    parts = [network(*encoder.encode(chunk)) for chunk in in_chunks(batch)]
    return parts[0] if len(parts) == 1 else tuple(np.concatenate(part) for part in zip(*parts, strict=True))
