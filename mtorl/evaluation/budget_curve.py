"""How much gain does a share of the money buy, by rule of choosing exposures?

`budget_curve` asks the logged exposures: with a share of their total cost to spend, how much of their total gain does
each rule buy? Gain per cost, the rule that prices lead to (`mtorl.policy.price`), stands beside predicted gain (the
rule of the authors' code), cheapest first (much of what a ranking wins is cost, not gain), random, and an oracle.

Shapes: B logged exposures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mtorl.arrays import Floats
from mtorl.evaluation.resamples import UserResamples, interval

SHARES = (0.1, 0.25, 0.375, 0.5, 0.75, 1.0)
RULES = ("mtorl", "predicted_gain", "cheapest", "random", "oracle")
_RANDOM_ORDERS = 20


def budget_curve(
    gain_pred: ArrayLike,
    cost_pred: ArrayLike,
    gain_true: ArrayLike,
    cost_true: ArrayLike,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    users_B: ArrayLike | None = None,
    resamples: int = 200,
    rival: tuple[ArrayLike, ArrayLike] | None = None,
) -> list[dict[str, Any]]:
    """Share of all gain that each rule buys with a share of all cost.

    Each rule ranks the exposures and takes them from the top until the next one would exceed the budget. Ties are
    broken at random: the order of the log is not a merit.

    Args:
        gain_pred: Predicted gain of each logged exposure.
        cost_pred: Predicted cost.
        gain_true: What it earned.
        cost_true: What it cost.
        shares: Budgets, as shares of the total cost.
        seed: Seed of ties, of the random rule, which is the mean of 20 orders, and of the resampling.
        users_B: User of each exposure, for intervals; without it they are None. They resample users, whose exposures
            resemble each other; both rules of the difference are computed on the same resample.
        resamples: Number of resamples.
        rival: Predicted gain and cost of another model; both rank by gain per cost, and meet on the same resamples.

    Returns:
        One row a budget, ready for JSON: share; the share of all gain that each of the RULES buys, that is mtorl
        (predicted gain / predicted cost), predicted_gain, cheapest (predicted cost), random, oracle (true gain / true
        cost); mtorl_minus_cheapest and, with a rival, rival and mtorl_minus_rival; 95 % intervals of mtorl and of the
        differences under NAME_ci. All but the share are None if nothing was gained at all.

    Raises:
        ValueError: arrays of different lengths, values that are not finite, or a share outside (0, 1].
    """
    predicted_gain, predicted_cost, gain, cost = (
        np.asarray(column, dtype=np.float64) for column in (gain_pred, cost_pred, gain_true, cost_true)
    )
    columns = {"gain_pred": predicted_gain, "cost_pred": predicted_cost, "gain_true": gain, "cost_true": cost}
    for name, column in columns.items():
        if column.shape != (len(gain),) or not column.size:
            raise ValueError(f"{name} must have one value an exposure, got shape {column.shape}")
        if not np.isfinite(column).all() or (name != "gain_pred" and (column < 0).any()):
            raise ValueError(f"{name} must be finite and not negative")
    if not all(0 < share <= 1 for share in shares):
        raise ValueError(f"shares must lie in (0, 1], got {list(shares)}")
    if users_B is not None and np.shape(users_B) != gain.shape:
        raise ValueError(f"users_B must have one value an exposure, got shape {np.shape(users_B)}")

    random = np.random.default_rng(seed)
    once_B = np.ones(len(gain))

    def ranking(score: Floats) -> Callable[[Floats], Floats]:
        best_first = np.lexsort((random.random(len(score)), -score))

        def bought(weight_B: Floats) -> Floats:
            weight = weight_B[best_first]
            spent, gained = np.cumsum(weight * cost[best_first]), np.cumsum(weight * gain[best_first])
            # Sums that should equal the budget may differ from it in the last digits.
            taken = np.searchsorted(spent, np.array(shares) * spent[-1] * (1 + 1e-9), side="right")
            with np.errstate(invalid="ignore"):  # a resample without gain: NaN
                share_of_gain: Floats = np.r_[0.0, gained][taken] / gained[-1]
            return share_of_gain

        return bought

    rules = {
        "mtorl": ranking(_per_cost(predicted_gain, predicted_cost)),
        "predicted_gain": ranking(predicted_gain),
        "cheapest": ranking(-predicted_cost),
    }
    against = ["cheapest"]
    if rival is not None:
        rules["rival"] = ranking(_per_cost(*(np.asarray(part, dtype=np.float64) for part in rival)))
        against.append("rival")
    found = {name: bought(once_B) for name, bought in rules.items()}
    found["random"] = np.mean([ranking(np.zeros(len(gain)))(once_B) for _ in range(_RANDOM_ORDERS)], axis=0)
    found["oracle"] = ranking(_per_cost(gain, cost))(once_B)
    found |= {f"mtorl_minus_{name}": found["mtorl"] - found[name] for name in against}

    drawn = ["mtorl", *(f"mtorl_minus_{name}" for name in against)]
    draws: list[Floats] = []  # of those, by budget
    if users_B is not None:
        users = UserResamples(users_B, resamples, seed)
        for counts_U in users:
            weight_B = counts_U[users.code_B]
            mtorl = rules["mtorl"](weight_B)
            draws.append(np.stack([mtorl, *(mtorl - rules[name](weight_B) for name in against)]))
    return [
        {
            "share": float(share),
            **{name: float(values[i]) if np.isfinite(values[i]) else None for name, values in found.items()},
            **{f"{name}_ci": interval([draw[k, i] for draw in draws]) for k, name in enumerate(drawn)},
        }
        for i, share in enumerate(shares)
    ]


def _per_cost(gain: Floats, cost: Floats) -> Floats:
    """Gain per cost; what is free comes first."""
    return np.divide(gain, cost, out=np.full_like(gain, np.inf), where=cost > 0)
