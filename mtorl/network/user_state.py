"""Measures how far a user's state is from the states seen in training; the drift monitor watches this distance.

    distance = sqrt(mean over the kept dimensions k of z_k^2),   z = whitened principal components of the state

The mean square of `distance` over the training sample is 1 for any network.

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

# Share of the variance that the kept components explain. In the other components, distances would be rounding errors.
KEPT = 0.99
# More windows would hardly change the fit.
MOST_WINDOWS = 20_000


class StateDistance(nn.Module):
    """Computes the distance of a state from the mean of the training states, along their principal components.

    Attributes:
        whitening_HK: Principal components, each divided by its standard deviation.
    """

    mean_H: Tensor
    whitening_HK: Tensor

    def __init__(self, mean_H: Tensor, whitening_HK: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean_H", mean_H)
        self.register_buffer("whitening_HK", whitening_HK)

    def forward(self, h_BH: Tensor) -> Tensor:
        """Return the distance of each state (B,)."""
        return ((h_BH - self.mean_H) @ self.whitening_HK).square().mean(-1).sqrt()

    @classmethod
    def of(cls, state_BH: Floats) -> StateDistance | None:
        """Fit the distance on a sample of states; returns None if all states are equal."""
        mean_H = state_BH.mean(axis=0)
        variance_H, component_HH = np.linalg.eigh(np.atleast_2d(np.cov(state_BH, rowvar=False, bias=True)))
        variance_H, component_HH = variance_H[::-1], component_HH[:, ::-1]
        if not variance_H[0] > 0:
            return None
        kept = int(np.searchsorted(variance_H.cumsum(), KEPT * variance_H.sum())) + 1
        whitening_HK = component_HH[:, :kept] / np.sqrt(variance_H[:kept])
        return cls(*(torch.from_numpy(part.astype(np.float32)) for part in (mean_H, whitening_HK)))


def fit_state_distance(ensemble: Ensemble, encoder: Encoder, batch: Windows) -> None:
    """Give an ensemble, which must be in inference mode, the output `state_distance`, fitted on training windows."""
    if len(batch) > MOST_WINDOWS:
        batch = batch.take(np.linspace(0, len(batch) - 1, MOST_WINDOWS).astype(np.int64))
    first = ensemble.networks[0]

    def states(x_BTD: NDArray[np.float32], length_B: Ints) -> tuple[NDArray[np.float32]]:
        return (first.last_state(torch.from_numpy(x_BTD), torch.from_numpy(length_B)).numpy(),)

    with torch.inference_mode(), one_thread():
        (state_BH,) = predict_in_chunks(states, encoder, batch)
    ensemble.state_distance = StateDistance.of(state_BH.astype(np.float64))
