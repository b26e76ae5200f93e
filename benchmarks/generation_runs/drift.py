"""Simulates how much value is lost if every new model is slightly worse and the gate promotes some of them by mistake.

The errors of the gate's estimates are drawn at random, so that thousands of markets take only seconds.

Shapes: M markets, N nights, G generations.
"""

from dataclasses import dataclass

import numpy as np

from mtorl.arrays import Bools, Floats

MARKETS = 4000
_Z = 1.96


@dataclass(frozen=True)
class Drift:
    """The result of simulating one rule of the gate, over all markets.

    Attributes:
        passed: Share of all models that the gate promoted.
        end: Mean value of the last serving model. The first model has the value 1.
        fell: Share of the markets whose value was ever more than 2 % below its best.
    """

    passed: float
    end: float
    fell: float


def drift(margin: float, worse: float, half_width: float, nights: int, seed: int = 0) -> Drift:
    """Simulate nights in which each new model is worse than the serving model by the share `worse`.

    Args:
        margin: Margin of `mtorl.evaluation.gate`. With 0, it promotes only models that are proven to be better.
        worse: Relative loss of value by each new model.
        half_width: Half the confidence interval of two models' difference after one night; 0.09 means 9 % of the value.
    """
    random = np.random.default_rng(seed)
    # Standard error of one model's value after one night; for a difference of two models, multiply by sqrt(2).
    a_night = half_width / _Z / np.sqrt(2.0)

    def errors_NM() -> Floats:
        drawn_NM = random.normal(0.0, a_night, (nights, MARKETS))
        return np.asarray(drawn_NM.cumsum(axis=0) / np.arange(1, nights + 1)[:, None])

    # True value of each generation (model), and error of its estimate in each night.
    value_GM, error_GNM = [np.ones(MARKETS)], [errors_NM()]
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
