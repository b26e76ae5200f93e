"""The budget decision alone: is an exposure on this channel, or on the best one, worth its cost?

    {"window": {...}, "channel": "search"?, "candidates": ["search"]?, "price": 0.3 or {"search": 0.3, ...}?,
     "costs": {"search": 0.02, ...}?}
    -> {"channel": "search", "expected_reward": ..., "expected_cost": ..., "expose": true, "utility": ...,
        "price": 0.3, "model": {...}}

The best channel is the candidate with the greatest utility. Nothing is drawn at random, so there is no propensity: use
`policy_handler.py` for a log that is to be evaluated later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtorl.policy.decision import Forecast, appraise, best_channel
from serving.handlers.base import ArtifactHandler
from serving.handlers.items import Offer, read_offer


class BudgetHandler(ArtifactHandler[Offer]):
    """Says whether to expose."""

    def read(self, item: Any) -> Offer:
        """Channel, candidates and prices."""
        return read_offer(item, self.artifact.spec, self.artifact.policy.price)

    def answer(self, asked: Sequence[Offer], forecast: Forecast) -> list[dict[str, Any]]:
        """One appraisal a row."""
        gain_BC, policy = forecast.gain_BC, self.artifact.policy
        cost_BC = np.minimum(forecast.cost_BC, np.array([offer.most for offer in asked]))
        candidates_BC = np.array([offer.candidates for offer in asked])
        price_BC = np.array([offer.prices for offer in asked])
        channel_B = best_channel(gain_BC, cost_BC, policy, candidates_BC, price_BC)
        worth = appraise(gain_BC, cost_BC, policy, channel_B, price_BC)
        return [
            {
                "channel": self.artifact.spec.channels[channel],
                "expected_reward": float(worth.expected_gain_B[b]),
                "expected_cost": float(worth.expected_cost_B[b]),
                "expose": bool(worth.expose_B[b]),
                "utility": float(worth.utility_B[b]),
                "price": asked[b].prices[channel],
            }
            for b, channel in enumerate(channel_B.tolist())
        ]
