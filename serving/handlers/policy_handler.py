"""The handlers: both decisions in one forward pass, as the router's arms run, the channel alone, or the budget alone.

    {"window": {...}, "u": 0.42, "candidates": ["search"]?, "price": 0.3 or {"search": 0.3, ...}?,
     "costs": {"search": 0.02, ...}?}
    -> {"channel": "search", "propensity": 0.7, "channel_probs": {...}, "expected_reward": ..., "expected_cost": ...,
        "expose": true, "utility": ..., "price": 0.3, "prices": {"search": 0.3, ...}, "exposure_probs": {...},
        "expected_rewards": {...}, "expected_costs": {...}, "state_distance": 1.1,
        "model": {"name": ..., "version": ..., "digest": ...}}

`price` is the price of the chosen channel. `state_distance` says how far the user is from those of the training
(`mtorl.network.user_state`); every handler adds it if its artifact has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtorl.policy.decision import Forecast, appraise, best_channel, decide
from serving.handlers.base import ArtifactHandler
from serving.handlers.items import Asked, read_choice, read_offer


class PolicyHandler(ArtifactHandler[Asked]):
    """Chooses a channel and says whether to expose."""

    def read(self, item: Any) -> Asked:
        """u, candidates and prices."""
        return read_choice(item, self.artifact.spec, self.artifact.policy.price)

    def answer(self, asked: Sequence[Asked], forecast: Forecast) -> list[dict[str, Any]]:
        """One decision a row."""
        channels = self.artifact.spec.channels
        most_BC = np.array([choice.most for choice in asked])
        chosen = decide(
            forecast._replace(cost_BC=np.minimum(forecast.cost_BC, most_BC)),
            self.artifact.policy,
            np.array([choice.u for choice in asked]),
            candidates_BC=np.array([choice.candidates for choice in asked]),
            price_BC=np.array([choice.prices for choice in asked]),
        )
        return [
            {
                "channel": channels[channel],
                "propensity": float(chosen.propensity_B[b]),
                "channel_probs": dict(zip(channels, chosen.probs_BC[b].tolist(), strict=True)),
                "expected_reward": float(chosen.expected_gain_B[b]),
                "expected_cost": float(chosen.expected_cost_B[b]),
                "expose": bool(chosen.expose_B[b]),
                "utility": float(chosen.utility_B[b]),
                "price": asked[b].prices[channel],
                "prices": dict(zip(channels, asked[b].prices, strict=True)),
                "exposure_probs": dict(zip(channels, chosen.expose_BC[b].astype(float).tolist(), strict=True)),
                "expected_rewards": dict(zip(channels, chosen.gain_BC[b].tolist(), strict=True)),
                "expected_costs": dict(zip(channels, chosen.cost_BC[b].tolist(), strict=True)),
            }
            for b, channel in enumerate(chosen.channel_B.tolist())
        ]


class ChannelHandler(PolicyHandler):
    """Chooses the channel that `PolicyHandler` chooses for the same item; no price is needed."""

    def answer(self, asked: Sequence[Asked], forecast: Forecast) -> list[dict[str, Any]]:
        """One channel a row."""
        fields = ("channel", "propensity", "channel_probs")
        return [{field: both[field] for field in fields} for both in super().answer(asked, forecast)]


class BudgetHandler(ArtifactHandler[Asked]):
    """Says whether an exposure on `channel`, or on the candidate with the greatest utility, is worth its cost.

    Nothing is drawn at random, so there is no propensity: a log that is to be evaluated later needs `PolicyHandler`.
    """

    def read(self, item: Any) -> Asked:
        """Channel, candidates and prices."""
        return read_offer(item, self.artifact.spec, self.artifact.policy.price)

    def answer(self, asked: Sequence[Asked], forecast: Forecast) -> list[dict[str, Any]]:
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
