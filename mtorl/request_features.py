"""Features of the moment of a decision, the same at training (a Feast on-demand view) and in the router."""

from __future__ import annotations

HOUR_US = 3_600_000_000
_DAY_US = 24 * HOUR_US


def request_features(request_us: float, newest_touch_us: float | None) -> dict[str, float | None]:
    """What the clock says.

    Args:
        request_us: When the decision is made, microseconds since 1970.
        newest_touch_us: When the user's newest touchpoint before it happened, likewise; None: there is none.

    Returns:
        hour_of_day: hours since midnight UTC, from 0 to 24.
        recency_hours: hours since the newest touchpoint; None without one.
    """
    recency = None if newest_touch_us is None else (request_us - newest_touch_us) / HOUR_US
    return {"hour_of_day": request_us % _DAY_US / HOUR_US, "recency_hours": recency}
