"""Builds the possible tokens of a user's next opportunity, one for each possible result of the current opportunity.

The K = 2 C + 1 results begin with no exposure. Then come an exposure without a gain on each channel, and an exposure
with a gain on each channel.

Shapes: B windows, C channels, N = B K tokens.
"""

from collections.abc import Mapping

import numpy as np

from mtorl.arrays import Floats
from mtorl.log.columns import take_each
from mtorl.window.window import WindowBatch


def branches(now: WindowBatch, cost_BC: Floats, later: WindowBatch, hit: Mapping[str, float]) -> WindowBatch:
    """Build the tokens that a user's next opportunity would have after each possible result of the current one.

    Args:
        now: Windows that end with the current opportunity.
        cost_BC: Cost of an exposure on each channel, in currency units.
        later: One window per window of `now`. Its last token has the next opportunity's context, hour and pause.
        hit: The value of each outcome after an exposure with a gain. Missing outcomes are 0.
    """
    users, channels = cost_BC.shape
    each = 2 * channels + 1
    user_N, branch_N = np.repeat(np.arange(users), each), np.tile(np.arange(each), users)
    shown_N, hit_N, channel_N = branch_N > 0, branch_N > channels, (branch_N - 1) % channels
    last_N, later_N = (np.cumsum(windows.length_B)[user_N] - 1 for windows in (now, later))
    exposure = {name: hit_N * value for name, value in hit.items()} | {"cost": cost_BC[user_N, channel_N]}
    # The earlier pause counts only without an exposure, which would be the previous touchpoint itself.
    waited_N = np.where(shown_N, 0.0, now.time["recency_hours"][last_N])
    return WindowBatch(
        np.full(users, each),
        np.where(shown_N, channel_N, now.prev_channel_N[last_N]),
        {
            name: np.where(shown_N, exposure.get(name, 0.0), value_N[last_N])
            for name, value_N in now.prev_outcomes.items()
        },
        {
            "hour_of_day": later.time["hour_of_day"][later_N],
            "recency_hours": later.time["recency_hours"][later_N] + waited_N,
        },
        take_each(later.context, later_N),
        now.static,
        take_each(now.features, last_N),
    )
