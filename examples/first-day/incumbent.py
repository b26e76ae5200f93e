"""The platform's present policy: a rule by device."""

from collections.abc import Mapping
from typing import Any

BY_DEVICE = {"mobile": "FEED", "desktop": "SRP", "tablet": "PREROLL"}


def decide(context: Mapping[str, Any]) -> dict[str, Any]:
    """Choose the channel, and whether to show the ad at all."""
    return {"channel": BY_DEVICE.get(context["device"], "BANNER"), "expose": context["placement"] != "sidebar"}
