"""Corrects forecasts of gain by the outcomes of exposures of users whom the model was not trained on.

    response = Response.fit(forecast_N, channel_N, gain_N, channels=4)
    gain_BC = response.gain(forecast_BC)

A policy exposes users for whom the forecast is high, and the highest forecasts tend to be too high (the winner's
curse). Let q be the forecast gain of an exposure on channel c. A quasi-Poisson regression fits the expected gain
exp(a + a_c) q^b. The prior means are b = 1 and a_c = 0, so without much data the forecasts are only multiplied by a
factor. The regression needs no importance weights: the policy chose the logged exposures by forecasts or by chance, and
did not know their outcomes.

Shapes: N logged exposures, B decisions, C channels, P parameters (a, b, a_c).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtorl.arrays import Floats, Ints

_SPREAD = 0.3  # standard deviation of the normal priors: b has the mean 1, each a_c has the mean 0
_STEPS = 8  # number of steps of Newton's method
_LEAST = 1e-9  # smaller forecasts are replaced by this number, because the log of 0 is undefined


@dataclass(frozen=True)
class Response:
    """A fitted calibration, which computes the expected gain of an exposure from its channel and its forecast."""

    parameters_P: Floats

    @classmethod
    def fit(
        cls, forecast_N: Floats, channel_N: Ints, gain_N: Floats, channels: int, weight_N: Floats | None = None
    ) -> Response:
        """Fit the calibration to logged exposures.

        Args:
            forecast_N: Forecast gain of each exposure.
            channel_N: Index of the channel of each exposure.
            gain_N: Gain that each exposure actually had.
            weight_N: How often each exposure counts, for example in a resample; once if None.
        """
        weight_N = np.ones(len(gain_N)) if weight_N is None else weight_N
        count, sum_of_gains = float(weight_N.sum()), float(weight_N @ gain_N)
        prior_P = np.r_[0.0, 1.0, np.zeros(channels)]
        if sum_of_gains <= 0:  # no exposure has a gain
            return cls(np.r_[np.log(_LEAST), prior_P[1:]])
        mean = sum_of_gains / count
        dispersion = float(weight_N @ (gain_N - mean) ** 2) / sum_of_gains
        log_N = np.log(np.maximum(forecast_N, _LEAST))
        design_NP = np.column_stack([np.ones(len(gain_N)), log_N, np.eye(channels)[channel_N]])
        precision_P = np.r_[1e-6, np.full(channels + 1, _SPREAD**-2)]
        found_P = prior_P.copy()
        found_P[0] = np.log(mean / max(float(weight_N @ forecast_N) / count, _LEAST))
        for _ in range(_STEPS):
            expected_N = weight_N * np.exp(np.minimum(design_NP @ found_P, 50.0)) / dispersion
            slope_P = design_NP.T @ (weight_N * gain_N / dispersion - expected_N) - precision_P * (found_P - prior_P)
            curvature_PP = (design_NP.T * expected_N) @ design_NP + np.diag(precision_P)
            found_P = found_P + np.linalg.solve(curvature_PP, slope_P)
        return cls(found_P)

    def gain(self, forecast_BC: Floats) -> Floats:
        """Return the calibrated gain (B, C) of an exposure on each channel, given the forecast gains."""
        level, slope, *of_channel = self.parameters_P
        return np.asarray(np.exp(level + np.array(of_channel) + slope * np.log(np.maximum(forecast_BC, _LEAST))))
