"""The windows of a user's next opportunity, one for each way in which the present one can go.

    later = branches(windows, cost_BC, later, hit, encoder.window)     # (2 C + 1) windows for each one

There is a branch without an exposure, one for each channel whose exposure earned nothing, and one for each channel
whose exposure earned something. The context of the next opportunity and the pause before it come from the log, the same
for all branches of a window, so that branches differ in nothing but what happened.

Shapes: B windows, C channels, K = 2 C + 1 branches, M = B K branches of all windows, N tokens.
"""

from collections.abc import Mapping

import numpy as np

from mtorl.arrays import Floats, Ints
from mtorl.log.columns import take_each
from mtorl.window.on_demand import joined
from mtorl.window.window import WindowBatch


def branches(
    now: WindowBatch, cost_BC: Floats, later: WindowBatch, hit: Mapping[str, float], window: int
) -> WindowBatch:
    """Windows of the next opportunity: after no exposure, after one without a gain, and after one with a gain.

    Args:
        cost_BC: What an exposure costs, currency units.
        later: A window for each of `now`, whose last token is the next opportunity: its context, hour and pause.
        hit: Outcomes of an exposure with a gain, by name; those that are missing are 0, as without a gain.
        window: Most tokens of a window.
    """
    users, channels = cost_BC.shape
    user_M = np.repeat(np.arange(users), 2 * channels + 1)
    branch_M = np.tile(np.arange(2 * channels + 1), users)
    shown_M, hit_M, channel_M = branch_M > 0, branch_M > channels, (branch_M - 1) % channels
    last_M, later_M = (np.cumsum(windows.length_B)[user_M] - 1 for windows in (now, later))
    exposure = {name: hit_M * value for name, value in hit.items()} | {"cost": cost_BC[user_M, channel_M]}
    waited_M = np.where(shown_M, 0.0, now.time["recency_hours"][last_M])  # without an exposure, since the last one
    new = WindowBatch(  # of one token each
        np.ones(len(user_M), dtype=np.int64),
        np.where(shown_M, channel_M, now.prev_channel_N[last_M]),
        {
            name: np.where(shown_M, exposure.get(name, 0.0), value_N[last_M])
            for name, value_N in now.prev_outcomes.items()
        },
        {
            "hour_of_day": later.time["hour_of_day"][later_M],
            "recency_hours": later.time["recency_hours"][later_M] + waited_M,
        },
        take_each(later.context, later_M),
        take_each(now.static, user_M),
        take_each(now.features, last_M),
    )
    # Without an exposure the new token replaces the last one; else it follows, and a full window loses its first.
    length_M = np.minimum(now.length_B[user_M] + shown_M, window)
    both = joined([now, new])
    token_N = _tokens(last_M - ~shown_M, length_M, len(now.prev_channel_N))
    return WindowBatch(
        length_M,
        both.prev_channel_N[token_N],
        take_each(both.prev_outcomes, token_N),
        take_each(both.time, token_N),
        take_each(both.context, token_N),
        new.static,
        take_each(both.features, token_N),
    )


def _tokens(kept_M: Ints, length_M: Ints, first_new: int) -> Ints:
    """Places of all windows' tokens: the last ones up to `kept`, then the new one of each window."""
    row_N = np.repeat(np.arange(len(length_M)), length_M)
    before_N = np.repeat(np.cumsum(length_M), length_M) - 1 - np.arange(len(row_N))  # tokens until the window's last
    return np.where(before_N == 0, first_new + row_N, kept_M[row_N] + 1 - before_N)
