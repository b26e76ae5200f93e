"""Simulates many small losses: how much value is lost under a margin of the gate if every next model is worse.

    drift(margin=0.02, worse=0.01, half_width=0.09, nights=8)

Estimates are drawn at random instead of computed, so that thousands of markets take seconds. Each night adds its log to
the earlier ones. So the error of a generation's estimated value is the mean of one error for each night, and the
half-width of a difference's interval falls with the square root of the nights. This is the worst case: each night's
model is worse than the serving model by the same share, and the gate has only estimates.

Shapes: M markets, N nights, G generations.
"""

from dataclasses import dataclass

import numpy as np

from mtorl.arrays import Bools, Floats

MARKETS = 4000
_Z = 1.96


@dataclass(frozen=True)
class Drift:
    """The results of a margin over all markets."""

    passed: float  # share of the models that the gate promoted
    end: float  # mean value after the last night, relative to the first value
    fell: float  # share of markets that at some time are over 2 % below their best generation


def drift(margin: float, worse: float, half_width: float, nights: int, seed: int = 0) -> Drift:
    """Simulate nights whose models are worse than the serving model by the share `worse`.

    Args:
        margin: Margin of `mtorl.evaluation.gate`; 0 requires a proof of superiority.
        half_width: Half-width of the difference's interval after one night, as a share of the value.
    """
    random = np.random.default_rng(seed)
    # The error of a difference is the difference of two generations' errors, so one error is smaller by sqrt(2).
    a_night = half_width / _Z / np.sqrt(2.0)

    def errors_NM() -> Floats:
        drawn_NM = random.normal(0.0, a_night, (nights, MARKETS))
        return np.asarray(drawn_NM.cumsum(axis=0) / np.arange(1, nights + 1)[:, None])

    value_GM, error_GNM = [np.ones(MARKETS)], [errors_NM()]  # true values of the generations, and errors of estimates
    serves_M = np.zeros(MARKETS, dtype=int)
    best_M, fell_M, passed, each_M = np.ones(MARKETS), np.zeros(MARKETS, dtype=np.bool_), 0.0, np.arange(MARKETS)
    for night in range(nights):
        estimate_GM = np.array(value_GM) + np.array([error_NM[night] for error_NM in error_GNM])
        value_GM.append(np.array(value_GM)[serves_M, each_M] * (1.0 - worse))
        error_GNM.append(errors_NM())
        found_M = value_GM[-1] + error_GNM[-1][night] - estimate_GM[serves_M, each_M]
        low_M = found_M - half_width / np.sqrt(night + 1.0)
        passes_M: Bools = (found_M > 0) & (low_M > -margin * estimate_GM[serves_M, each_M])
        serves_M = np.where(passes_M, night + 1, serves_M)
        passed += float(passes_M.mean()) / nights
        served_M = np.array(value_GM)[serves_M, each_M]
        best_M = np.maximum(best_M, served_M)
        fell_M |= served_M < 0.98 * best_M
    return Drift(passed, float(served_M.mean()), float(fell_M.mean()))
