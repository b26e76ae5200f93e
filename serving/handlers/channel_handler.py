"""The channel decision alone, for a caller that spends by rules of its own.

    {"window": {...}, "u": 0.42, "candidates": ["search"]?, "price": ...?}
    -> {"channel": "search", "propensity": 0.7, "channel_probs": {...}, "model": {...}}

No price is needed. The channel is the one that `policy_handler.py` chooses for the same item.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mtorl.policy.decision import Forecast
from serving.handlers.items import Choice
from serving.handlers.policy_handler import PolicyHandler

_FIELDS = ("channel", "propensity", "channel_probs")


class ChannelHandler(PolicyHandler):
    """Chooses a channel."""

    def answer(self, asked: Sequence[Choice], forecast: Forecast) -> list[dict[str, Any]]:
        """One channel a row."""
        return [{field: both[field] for field in _FIELDS} for both in super().answer(asked, forecast)]
