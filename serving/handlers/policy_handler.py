"""Both decisions in one forward pass: which channel, and whether to spend on it. What the router's arms run.

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

from mtorl.policy.decision import Forecast, decide
from serving.handlers.base import ArtifactHandler
from serving.handlers.items import Choice, read_choice


class PolicyHandler(ArtifactHandler[Choice]):
    """Chooses a channel and says whether to expose."""

    def read(self, item: Any) -> Choice:
        """u, candidates and prices."""
        return read_choice(item, self.artifact.spec, self.artifact.policy.price)

    def answer(self, asked: Sequence[Choice], forecast: Forecast) -> list[dict[str, Any]]:
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
