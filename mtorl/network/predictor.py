"""The predictions of MTORL and of every baseline: three heads for the last step of each window.

    logits_BC, reward_BC, cost_BC = predict(network, encoder, batch)      # a network that was just trained
    logits_BC, reward_BC, cost_BC = predictor.predict(batch)              # any `Predictor`

Shapes: B windows, T steps of a window, D encoded token, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mtorl.window.encoder import Encoder
from mtorl.window.window import WindowBatch

if TYPE_CHECKING:
    from torch import nn

Heads = tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]], NDArray[np.floating[Any]]]
"""Action logits, expected reward in [0, 1] and expected cost in currency units, each [B, C]."""

Network = Callable[[NDArray[np.float32], NDArray[np.int64]], tuple[NDArray[np.floating[Any]], ...]]
"""A network as a function of arrays: (x_BTD, length_B) -> the heads, and what it may say beyond them, [B, ...]."""

CHUNK = 4096  # windows per call of a network: bounds the memory that scoring a whole log takes


class Predictor(Protocol):
    """A fitted model."""

    def predict(self, batch: WindowBatch) -> Heads:
        """The heads at the last step of each window."""


def predict(network: nn.Module, encoder: Encoder, batch: WindowBatch) -> Heads:
    """Heads of a torch network in inference mode, as an artifact made of it will predict them."""
    import torch

    from mtorl.network.parallel import one_thread

    def outputs(x_BTD: NDArray[np.float32], length_B: NDArray[np.int64]) -> tuple[NDArray[np.floating[Any]], ...]:
        return tuple(part.numpy() for part in network(torch.from_numpy(x_BTD), torch.from_numpy(length_B)))

    with torch.inference_mode(), one_thread():
        return heads_of(predict_in_chunks(outputs, encoder, batch))


def heads_of(outputs: tuple[NDArray[np.floating[Any]], ...]) -> Heads:
    """The heads among a network's outputs."""
    logits_BC, reward_BC, cost_BC = outputs[:3]
    return logits_BC, reward_BC, cost_BC


def predict_in_chunks(network: Network, encoder: Encoder, batch: WindowBatch) -> tuple[NDArray[np.floating[Any]], ...]:
    """Encode at most `CHUNK` windows at a time and join the network's outputs."""
    if len(batch) <= CHUNK:
        return network(*encoder.encode(batch))
    chunks = np.split(np.arange(len(batch)), range(CHUNK, len(batch), CHUNK))
    parts = [network(*encoder.encode(batch.take(rows))) for rows in chunks]
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))
