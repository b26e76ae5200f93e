"""Spending under a budget: the price at which a policy's spend fits, and how much gain a ranking buys.

The paper's Lagrangian penalises cost with a multiplier s. Here that multiplier is the `price` of the decision rule: an
exposure must earn `price` of gain per currency unit. A higher price spends less, so bisection finds the price of a
budget:

    price = solve_price(spend, budget)      # spend: price -> expected spend of the policy at that price

`budget_curve` asks the logged exposures: with a share of their total cost to spend, how much of their total gain does
each rule of choosing among them buy? Gain per cost, the rule that prices lead to, stands beside predicted gain (the
rule of the authors' code), cheapest first (much of what a ranking wins is cost, not gain), random, and an oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from mtorl.decision import Floats

SHARES = (0.1, 0.25, 0.375, 0.5, 0.75)
_RANDOM_ORDERS = 20
_MAX_PRICE = 2.0**100


def solve_price(spend: Callable[[float], float], budget: float, tolerance: float = 1e-3) -> float:
    """Find the lowest price, up to the tolerance, at which a policy's spend is within a budget.

    Args:
        spend: Expected spend at a price. It should not rise with the price. A policy that also moves between channels
            may rise a little here and there; the answer is then still within the budget, if not the lowest such price.
        budget: In the unit of `spend`, for instance currency units per opportunity.
        tolerance: Good enough: spend between (1 - tolerance) * budget and budget. Spend that jumps over this band, as
            that of few rows may, ends just behind the jump and below the band.

    Returns:
        The price; 0 if the budget does not bind. Spend at it never exceeds the budget.

    Raises:
        ValueError: the budget is not positive, or no price brings spend within it.
    """
    if not 0 < budget < np.inf:
        raise ValueError(f"budget must be a positive number, got {budget}")
    if spend(0.0) <= budget:
        return 0.0
    low, high = 0.0, 1.0
    while (spent := spend(high)) > budget:
        low, high = high, 2 * high
        if high > _MAX_PRICE:
            raise ValueError(f"spend stays above the budget of {budget:g} at any price")
    # spend(low) > budget >= spend(high), whatever happens in between
    while spent < (1 - tolerance) * budget and high - low > 1e-12 * high:
        middle = (low + high) / 2
        if (spent_here := spend(middle)) > budget:
            low = middle
        else:
            high, spent = middle, spent_here
    return high


def budget_curve(
    gain_pred: ArrayLike,
    cost_pred: ArrayLike,
    gain_true: ArrayLike,
    cost_true: ArrayLike,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
) -> list[dict[str, float | None]]:
    """Share of all gain that each rule buys with a share of all cost.

    Each rule ranks the exposures and takes them from the top until the next one would exceed the budget. Ties are
    broken at random: the order of the log is not a merit.

    Args:
        gain_pred: Predicted gain of each logged exposure.
        cost_pred: Predicted cost.
        gain_true: What it earned.
        cost_true: What it cost.
        shares: Budgets, as shares of the total cost.
        seed: Seed of ties and of the random rule, which is the mean of 20 orders.

    Returns:
        One row a budget: share, mtorl (predicted gain / predicted cost), predicted_gain, cheapest (predicted cost),
        random, oracle (true gain / true cost). All rules are None if nothing was gained at all.
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

    random = np.random.default_rng(seed)
    budgets = np.array(shares) * cost.sum()

    def bought(score: Floats) -> Floats:
        best_first = np.lexsort((random.random(len(score)), -score))
        # A sum in another order differs in the last digits; a budget of all cost must still buy all.
        taken = np.searchsorted(np.cumsum(cost[best_first]), budgets * (1 + 1e-9), side="right")
        share_of_gain: Floats = np.r_[0.0, np.cumsum(gain[best_first])][taken] / gain.sum()
        return share_of_gain

    if not gain.any():
        names = ("mtorl", "predicted_gain", "cheapest", "random", "oracle")
        return [{"share": float(share), **dict.fromkeys(names)} for share in shares]
    rules = {
        "mtorl": bought(_per_cost(predicted_gain, predicted_cost)),
        "predicted_gain": bought(predicted_gain),
        "cheapest": bought(-predicted_cost),
        "random": np.mean([bought(np.zeros(len(gain))) for _ in range(_RANDOM_ORDERS)], axis=0),
        "oracle": bought(_per_cost(gain, cost)),
    }
    return [
        {"share": float(share), **{name: float(values[i]) for name, values in rules.items()}}
        for i, share in enumerate(shares)
    ]


def _per_cost(gain: Floats, cost: Floats) -> Floats:
    """Gain per cost; what is free comes first."""
    return np.divide(gain, cost, out=np.full_like(gain, np.inf), where=cost > 0)
