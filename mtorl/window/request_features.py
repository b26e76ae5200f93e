"""Features of the moment of a decision, the same at training (a Feast on-demand view) and in the router."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mtorl.log.times import DAY_US, HOUR_US

Number = TypeVar("Number", float, NDArray[np.float64])


def request_features(request_us: Number, newest_touchpoint_us: Number | None) -> dict[str, Number | None]:
    """Hour of the day and time since the newest touchpoint; for one decision, or for many as arrays.

    Args:
        request_us: When the decision is made, microseconds since 1970.
        newest_touchpoint_us: When the user's newest earlier touchpoint happened, microseconds since 1970; None (or NaN,
            in an array) if there is none.

    Returns:
        hour_of_day: hours since midnight UTC, from 0 to 24.
        recency_hours: hours since the newest touchpoint; None, or NaN, without one.
    """
    recency = None if newest_touchpoint_us is None else (request_us - newest_touchpoint_us) / HOUR_US
    return {"hour_of_day": request_us % DAY_US / HOUR_US, "recency_hours": recency}
