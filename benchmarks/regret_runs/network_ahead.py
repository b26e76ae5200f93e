"""Looks one opportunity ahead with the network that serves: what does an exposure change in the user's next window?

For no exposure, and for each channel a and outcome y (no click, a click), the touchpoint is appended to the history.
The network predicts gain and cost at a next opportunity, whose context is drawn from the log once for all branches:

    v(branch) = max(0, max_c gain_c - price cost_c)
    gain of a = gain_a + p_a v(a, 1) + (1 - p_a) v(a, 0) - v(no exposure)

No training is needed. The last round has no later opportunity.

Shapes: U users, N some of them, C channels, K = 2 C + 1 branches, M = U K branches of all users, J tokens.
"""

import numpy as np

from mtorl.arrays import Floats, Ints
from mtorl.artifact.artifact import Artifact
from mtorl.log.columns import take_each
from mtorl.policy.decision import Forecast
from mtorl.simulator.simulator import Online
from mtorl.window.on_demand import joined
from mtorl.window.window import WindowBatch
from pipelines.loop.simulated_lift import Forecasts, windows_of


class NetworkAhead:
    """The gain of an exposure with what it adds at the next opportunity.

    Args:
        now: The network's forecasts; a click is the gain.
        opportunities: Windows of a log, whose last tokens are the opportunities to draw from.
    """

    def __init__(self, artifact: Artifact, now: Forecasts, opportunities: WindowBatch, seed: int) -> None:
        last_B = np.cumsum(opportunities.length_B) - 1
        follows_B = np.isfinite(opportunities.time["recency_hours"][last_B])
        self._artifact, self._now = artifact, now
        self._later = opportunities.take(np.flatnonzero(follows_B))
        self._draws = np.random.default_rng(seed)
        self._round: tuple[Online, int] | None = None
        self._gain_UKC, self._cost_UKC = np.zeros(0), np.zeros(0)

    def __call__(self, online: Online, round_index: int, part: slice, price: float, forecast: Forecast) -> Floats:
        """See `pipelines.loop.simulated_lift.GainAt`."""
        gain_NC = np.clip(forecast.gain_BC, 0.0, 1.0)
        if round_index + 1 == online.rounds:
            return gain_NC
        if self._round is None or self._round[0] is not online or self._round[1] != round_index:
            self._round = online, round_index
            self._predict_branches(online, round_index)
        value_NK = np.maximum((self._gain_UKC[part] - price * self._cost_UKC[part]).max(axis=-1), 0.0)
        none_N1, missed_NC, clicked_NC = np.split(value_NK, [1, 1 + gain_NC.shape[1]], axis=1)
        return np.asarray(gain_NC + gain_NC * clicked_NC + (1 - gain_NC) * missed_NC - none_N1)

    def _predict_branches(self, online: Online, round_index: int) -> None:
        artifact = self._artifact
        windows = windows_of(online, round_index, artifact.spec)
        cost_UC = np.asarray(self._now(online, round_index).cost_BC)
        later = self._later.take(self._draws.integers(len(self._later), size=len(windows)))
        _, reward_MC, cost_MC = artifact.predict(branches(windows, cost_UC, later, artifact.spec.window))
        shape = len(windows), -1, cost_UC.shape[1]
        self._gain_UKC = artifact.encoder.unreward(reward_MC, cost_MC).reshape(shape)
        self._cost_UKC = cost_MC.reshape(shape)


def branches(now: WindowBatch, cost_UC: Floats, later: WindowBatch, window: int) -> WindowBatch:
    """Windows of the next opportunity: after no exposure, and after each channel without and with a click.

    Args:
        later: A window for each user, whose last token is the next opportunity: its context, and its pause.
    """
    users, channels = cost_UC.shape
    user_M = np.repeat(np.arange(users), 2 * channels + 1)
    branch_M = np.tile(np.arange(2 * channels + 1), users)
    shown_M, clicked_M, channel_M = branch_M > 0, branch_M > channels, (branch_M - 1) % channels
    last_M, later_M = (np.cumsum(windows.length_B)[user_M] - 1 for windows in (now, later))
    exposure = {"click": clicked_M.astype(np.float64), "cost": cost_UC[user_M, channel_M]}
    pause_M = later.time["recency_hours"][later_M]
    new = WindowBatch(  # of one token each
        np.ones(len(user_M), dtype=np.int64),
        np.where(shown_M, channel_M, now.prev_channel_N[last_M]),
        {
            name: np.where(shown_M, exposure.get(name, 0.0), value_J[last_M])
            for name, value_J in now.prev_outcomes.items()
        },
        {
            "hour_of_day": later.time["hour_of_day"][later_M],
            "recency_hours": pause_M + np.where(shown_M, 0.0, now.time["recency_hours"][last_M]),
        },
        take_each(later.context, later_M),
        take_each(now.static, user_M),
    )
    # Without an exposure the new token replaces the last one; else it follows, and a full window loses its first.
    length_M = np.minimum(now.length_B[user_M] + shown_M, window)
    both = joined([now, new])
    token_J = _tokens(last_M - ~shown_M, length_M, len(now.prev_channel_N))
    return WindowBatch(
        length_M,
        both.prev_channel_N[token_J],
        take_each(both.prev_outcomes, token_J),
        take_each(both.time, token_J),
        take_each(both.context, token_J),
        new.static,
    )


def _tokens(kept_M: Ints, length_M: Ints, first_new: int) -> Ints:
    """Places of all windows' tokens: the last ones up to `kept`, then the new one of each window."""
    row_J = np.repeat(np.arange(len(length_M)), length_M)
    before_J = np.repeat(np.cumsum(length_M), length_M) - 1 - np.arange(len(row_J))  # tokens until the window's last
    return np.where(before_J == 0, first_new + row_J, kept_M[row_J] + 1 - before_J)
