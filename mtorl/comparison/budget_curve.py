"""Computes the share of the total gain that a rule obtains with a limited budget.

MTORL ranks exposures by predicted gain per cost. It is compared with simpler rules and with an oracle.

Shapes: B logged exposures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mtorl.arrays import Floats
from mtorl.evaluation.resamples import UserResamples, interval

SHARES = (0.1, 0.25, 0.375, 0.5, 0.75, 1.0)
RULES = ("mtorl", "predicted_gain", "cheapest", "random", "oracle")
_RANDOM_ORDERS = 20


@dataclass(frozen=True)
class GainAndCost:
    """Gain and cost of each exposure, either predicted by a model or as logged."""

    gain_B: ArrayLike
    cost_B: ArrayLike

    def arrays(self) -> tuple[Floats, Floats]:
        """Return gain and cost as float arrays."""
        return np.asarray(self.gain_B, dtype=np.float64), np.asarray(self.cost_B, dtype=np.float64)


def budget_curve(
    predicted: GainAndCost,
    logged: GainAndCost,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    users: UserResamples | None = None,
    rival: GainAndCost | None = None,
) -> list[dict[str, Any]]:
    """Return the share of the total gain that each rule obtains with each budget.

    A rule ranks the exposures, and makes the best ones until the next one would exceed the budget.

    Args:
        shares: Budgets, as fractions of the total cost.
        users: Resamples of the users for 95 % intervals. None means no intervals.
        rival: Forecasts of another model to compare MTORL with.

    Returns:
        One dict per budget, with the share of the gain for each rule and the lead of MTORL over other rules. Keys that
        end in ``_ci`` are intervals. Shares are None if the total gain is not positive.
    """
    (gain, cost), (predicted_gain, predicted_cost) = logged.arrays(), predicted.arrays()
    random = np.random.default_rng(seed)
    once_B = np.ones(len(gain))

    def ranking(score: Floats) -> Callable[[Floats], Floats]:
        best_first = np.lexsort((random.random(len(score)), -score))

        def bought(weight_B: Floats) -> Floats:
            weight = weight_B[best_first]
            spent, gained = np.cumsum(weight * cost[best_first]), np.cumsum(weight * gain[best_first])
            # A rounding error in `spent` must not exclude an exposure that the budget just pays for.
            taken = np.searchsorted(spent, np.array(shares) * spent[-1] * (1 + 1e-9), side="right")
            all_gain = gained[-1] if gained[-1] > 0 else np.nan  # undefined if a resample has no gain
            share_of_gain: Floats = np.r_[0.0, gained][taken] / all_gain
            return share_of_gain

        return bought

    rules = {
        "mtorl": ranking(_per_cost(predicted_gain, predicted_cost)),
        "predicted_gain": ranking(predicted_gain),
        "cheapest": ranking(-predicted_cost),
    }
    against = ["cheapest"]
    if rival is not None:
        rules["rival"] = ranking(_per_cost(*rival.arrays()))
        against.append("rival")
    curves = {name: bought(once_B) for name, bought in rules.items()}
    curves["random"] = np.mean([ranking(np.zeros(len(gain)))(once_B) for _ in range(_RANDOM_ORDERS)], axis=0)
    curves["oracle"] = ranking(_per_cost(gain, cost))(once_B)
    curves |= {f"mtorl_minus_{name}": curves["mtorl"] - curves[name] for name in against}

    drawn = ["mtorl", *(f"mtorl_minus_{name}" for name in against)]
    draws: list[Floats] = []  # one per resample: (drawn, budgets)
    if users is not None:
        for counts_U in users:
            weight_B = counts_U[users.code_B]
            mtorl = rules["mtorl"](weight_B)
            draws.append(np.stack([mtorl, *(mtorl - rules[name](weight_B) for name in against)]))
    return [
        {
            "share": float(share),
            **{name: float(values[i]) if np.isfinite(values[i]) else None for name, values in curves.items()},
            **{f"{name}_ci": interval([draw[k, i] for draw in draws]) for k, name in enumerate(drawn)},
        }
        for i, share in enumerate(shares)
    ]


def _per_cost(gain: Floats, cost: Floats) -> Floats:
    return np.divide(gain, cost, out=np.where(gain < 0, -np.inf, np.inf), where=cost > 0)
