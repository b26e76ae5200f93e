"""Parameters of the challenger's decision rule: weight of predicted rewards, exploration, price of the budget."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtorl.policy.decision import Forecast, PolicyParams, action_probabilities, utility_scale
from mtorl.policy.price import solve_price

ADVANTAGE_WEIGHT = 3.0  # beta: one utility_scale of extra utility multiplies the odds of a channel by e^3
EXPLORATION = 0.05  # epsilon: every channel keeps some probability, so later off-policy estimates stay possible


def price_policy(
    logits_BC: NDArray[np.floating[Any]],
    gain_BC: NDArray[np.floating[Any]],
    cost_BC: NDArray[np.floating[Any]],
    budget_per_opportunity: float,
) -> PolicyParams:
    """Set the challenger's parameters so that its expected spend meets a budget.

    Args:
        logits_BC: Action head on B validation rows, for each of C channels.
        gain_BC: Expected gain of each channel.
        cost_BC: Expected cost of each channel, currency units.
        budget_per_opportunity: Currency units that may be spent per opportunity on average.

    Returns:
        Parameters with the smallest price that the budget allows; 0 when the budget does not bind.
    """
    scale = utility_scale(gain_BC, cost_BC)
    if not cost_BC.any():  # nothing costs anything, so no budget binds
        return PolicyParams(ADVANTAGE_WEIGHT, EXPLORATION, 0.0, scale)

    def params(price: float) -> PolicyParams:
        return PolicyParams(ADVANTAGE_WEIGHT, EXPLORATION, price, scale)

    def spend(price: float) -> float:
        probs_BC, expose_BC = action_probabilities(Forecast(logits_BC, gain_BC, cost_BC), params(price))
        return float((probs_BC * expose_BC * cost_BC).sum(axis=1).mean())

    return params(solve_price(spend, budget_per_opportunity))
