"""Measures the distance of a user's state from the states in training, which the drift monitor watches.

    fit_state_distance(ensemble, encoder, train_windows)       # in place; adds an output to the exported graph

    distance = sqrt(mean over the kept dimensions k of z_k^2),   z = whitened principal components of the state

`distance` is the Mahalanobis distance of the state that the decoders read (`MTORL.last_state`), divided by the square
root of the number of dimensions. So for any network, the mean square of `distance` over the training sample is 1. The
components with the least variance are left out, because distances along them would mostly be rounding errors.

Shapes: B windows, T steps, D encoded token, H hidden, K dimensions kept.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtorl.arrays import Floats, Ints
from mtorl.network.ensemble import Ensemble
from mtorl.network.parallel import one_thread
from mtorl.network.predictor import predict_in_chunks
from mtorl.window.encoder import Encoder
from mtorl.window.on_demand import Windows

KEPT = 0.99  # share of the states' variance in the kept components
MOST_WINDOWS = 20_000  # more windows would change neither mean nor components


class StateDistance(nn.Module):
    """Computes the distance from the training's mean and components, which are buffers."""

    mean_H: Tensor
    whitening_HK: Tensor  # principal components as columns, each divided by its standard deviation

    def __init__(self, mean_H: Tensor, whitening_HK: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean_H", mean_H)
        self.register_buffer("whitening_HK", whitening_HK)

    def forward(self, h_BH: Tensor) -> Tensor:
        """The distance of each state (B,)."""
        return ((h_BH - self.mean_H) @ self.whitening_HK).square().mean(-1).sqrt()

    @classmethod
    def of(cls, state_BH: Floats) -> StateDistance | None:
        """Fit to the states of a sample; None if all states are equal."""
        mean_H = state_BH.mean(axis=0)
        variance_H, component_HH = np.linalg.eigh(np.atleast_2d(np.cov(state_BH, rowvar=False, bias=True)))
        variance_H, component_HH = variance_H[::-1], component_HH[:, ::-1]
        if not variance_H[0] > 0:
            return None
        kept = int(np.searchsorted(variance_H.cumsum(), KEPT * variance_H.sum())) + 1
        whitening_HK = component_HH[:, :kept] / np.sqrt(variance_H[:kept])
        return cls(*(torch.from_numpy(part.astype(np.float32)) for part in (mean_H, whitening_HK)))


def fit_state_distance(ensemble: Ensemble, encoder: Encoder, batch: Windows) -> None:
    """Set `state_distance` of an ensemble in inference mode, from at most `MOST_WINDOWS` training windows."""
    if len(batch) > MOST_WINDOWS:
        batch = batch.take(np.linspace(0, len(batch) - 1, MOST_WINDOWS).astype(np.int64))
    first = ensemble.networks[0]

    def states(x_BTD: NDArray[np.float32], length_B: Ints) -> tuple[NDArray[np.float32]]:
        return (first.last_state(torch.from_numpy(x_BTD), torch.from_numpy(length_B)).numpy(),)

    with torch.inference_mode(), one_thread():
        (state_BH,) = predict_in_chunks(states, encoder, batch)
    ensemble.state_distance = StateDistance.of(state_BH.astype(np.float64))
