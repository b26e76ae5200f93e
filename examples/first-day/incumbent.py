"""The example platform's present policy: a rule that chooses the ad channel by the user's device."""

from collections.abc import Mapping
from typing import Any

BY_DEVICE = {"mobile": "FEED", "desktop": "SRP", "tablet": "PREROLL"}


def decide(context: Mapping[str, Any]) -> dict[str, Any]:
    """Return the channel for a request, and whether to show the ad (`expose`)."""
    return {"channel": BY_DEVICE.get(context["device"], "BANNER"), "expose": context["placement"] != "sidebar"}
