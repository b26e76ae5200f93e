"""Corrects forecasts of gain with the observed gains of users whom the model was not trained on.

A policy exposes users for whom the forecast is high, and the highest forecasts tend to be too high (the winner's
curse). For a forecast q on channel c, a quasi-Poisson regression fits the expected gain exp(a + a_c) q^b.

Shapes: N logged exposures, B decisions, C channels, P parameters (a, b, a_c).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtorl.arrays import Floats, Ints

_SPREAD = 0.3  # standard deviation of the priors
_STEPS = 8  # steps of Newton's method
_LEAST = 1e-9  # avoids the log of 0


@dataclass(frozen=True)
class Response:
    """A fitted calibration of forecast gains."""

    parameters_P: Floats

    @classmethod
    def fit(
        cls, forecast_N: Floats, channel_N: Ints, gain_N: Floats, channels: int, weight_N: Floats | None = None
    ) -> Response:
        """Fit the calibration to logged exposures.

        Args:
            weight_N: How often each exposure counts; once if None.
        """
        weight_N = np.ones(len(gain_N)) if weight_N is None else weight_N
        count, sum_of_gains = float(weight_N.sum()), float(weight_N @ gain_N)
        prior_P = np.r_[0.0, 1.0, np.zeros(channels)]
        if sum_of_gains <= 0:
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
        """Return the calibrated gain (B, C) of an exposure, given the forecast gains."""
        level, slope, *of_channel = self.parameters_P
        return np.asarray(np.exp(level + np.array(of_channel) + slope * np.log(np.maximum(forecast_BC, _LEAST))))
