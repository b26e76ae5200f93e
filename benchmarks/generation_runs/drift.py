"""Many small losses in a row: what a rule of the gate lets a policy lose, if every next model is worse.

    drift(Rule(margin=0.02), worse=0.01, half_width=0.09, nights=8)

Estimates are drawn instead of made, so that thousands of markets take seconds. The log of a night adds to those before
it, so the error of a generation's value is the mean of one error a night, and the half-width of a difference's interval
falls with the square root of the nights. The worst case: each night's model is worse than the one that serves by the
same share, and the gate knows nothing but estimates.

Shapes: M markets, N nights, G generations.
"""

from dataclasses import dataclass

import numpy as np

from mtorl.arrays import Bools, Floats

MARKETS = 4000
_Z = 1.96


@dataclass(frozen=True)
class Rule:
    """A rule of the gate: the margin of `mtorl.evaluation.gate`, and the model that the next one is compared with.

    Attributes:
        margin: Share of the value; 0 asks for a proof of superiority.
        best: Whether that is the one with the best estimate, on all nights so far, of those that have served; else the
            last one.
    """

    margin: float
    best: bool = False


@dataclass(frozen=True)
class Drift:
    """The result of a rule, of all markets."""

    passed: float  # share of the models
    end: float  # value after the last night over the first, mean
    fell: float  # share of the markets whose value is ever more than 2 % below that of the best generation


def drift(rule: Rule, worse: float, half_width: float, nights: int, seed: int = 0) -> Drift:
    """Let each night's model be worse than the one that serves by a share of its value.

    Args:
        half_width: Of the difference's interval after one night, as a share of the value.
    """
    random = np.random.default_rng(seed)
    # Two generations' errors make the error of a difference.
    a_night = half_width / _Z / np.sqrt(2.0)

    def errors_NM() -> Floats:
        drawn_NM = random.normal(0.0, a_night, (nights, MARKETS))
        return np.asarray(drawn_NM.cumsum(axis=0) / np.arange(1, nights + 1)[:, None])

    value_GM, error_GNM = [np.ones(MARKETS)], [errors_NM()]  # true values of the generations, and what estimates add
    has_served_GM = [np.ones(MARKETS, dtype=np.bool_)]
    serves_M = np.zeros(MARKETS, dtype=int)
    best_M, fell_M, passed, each_M = np.ones(MARKETS), np.zeros(MARKETS, dtype=np.bool_), 0.0, np.arange(MARKETS)
    for night in range(nights):
        estimate_GM = np.array(value_GM) + np.array([error_NM[night] for error_NM in error_GNM])
        than_M = np.where(has_served_GM, estimate_GM, -np.inf).argmax(axis=0) if rule.best else serves_M
        value_GM.append(np.array(value_GM)[serves_M, each_M] * (1.0 - worse))
        error_GNM.append(errors_NM())
        found_M = value_GM[-1] + error_GNM[-1][night] - estimate_GM[than_M, each_M]
        low_M = found_M - half_width / np.sqrt(night + 1.0)
        passes_M: Bools = (found_M > 0) & (low_M > -rule.margin * estimate_GM[than_M, each_M])
        has_served_GM.append(passes_M)
        serves_M = np.where(passes_M, night + 1, serves_M)
        passed += float(passes_M.mean()) / nights
        served_M = np.array(value_GM)[serves_M, each_M]
        best_M = np.maximum(best_M, served_M)
        fell_M |= served_M < 0.98 * best_M
    return Drift(passed, float(served_M.mean()), float(fell_M.mean()))
