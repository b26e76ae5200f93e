"""Finds the price at which the expected spend of a policy fits a budget.

The price is the Lagrange multiplier of the budget, and differs from the paper's multiplier s (docs/model.md).
"""

from dataclasses import replace

import numpy as np

from mtorl.policy.decision import Forecast, PolicyParams, action_probabilities

_MAX_PRICE = 2.0**100
# The search ends when spend is at most this fraction below the budget.
_TOLERANCE = 1e-3


def policy_price(forecast: Forecast, params: PolicyParams, budget: float) -> float:
    """Return the lowest price at which the expected spend of a policy is within a budget, up to a tolerance.

    Args:
        budget: Currency units per row of the forecast.

    Raises:
        ValueError: the budget is not positive, or the spend exceeds it at every price.
    """
    cost_BC = np.asarray(forecast.cost_BC)
    if not cost_BC.any():
        return 0.0
    if not 0 < budget < np.inf:
        raise ValueError(f"budget must be a positive number, got {budget}")

    def spend(price: float) -> float:
        probs_BC, expose_BC = action_probabilities(forecast, replace(params, price=price))
        return float((probs_BC * expose_BC * cost_BC).sum(axis=1).mean())

    if spend(0.0) <= budget:
        return 0.0
    low, high = 0.0, 1.0
    while (spent := spend(high)) > budget:
        low, high = high, 2 * high
        if high > _MAX_PRICE:
            raise ValueError(f"spend stays above the budget of {budget:g} at any price")
    # In this loop, spend(low) > budget >= spend(high), even if spend does not fall steadily.
    while spent < (1 - _TOLERANCE) * budget and high - low > 1e-12 * high:
        middle = (low + high) / 2
        if (spent_here := spend(middle)) > budget:
            low = middle
        else:
            high, spent = middle, spent_here
    return high
