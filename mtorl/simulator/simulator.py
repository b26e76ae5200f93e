"""Simulates a market in which every probability is known, so that estimates can be compared with true values.

    simulator = Simulator(SimulatorConfig(users=6000, seed=7))
    log = simulator.log()                                       # canonical touchpoint log with known propensities
    online = simulator.online(user_ids, rounds=5, seed=1)       # the same users, from the end of the log on

Shapes: U users (of the market, or of an `Online`), T steps, R rounds, N selected users, C channels.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mtorl.arrays import Floats, Ints
from mtorl.log.dataset import OUTCOMES, DatasetSpec
from mtorl.log.times import HOUR_US, microseconds
from mtorl.simulator.market import CHANNELS, DEVICES, PLACEMENTS, Draws, Market, State, pick, price_cap

CAMPAIGN = "spring-sale"
# mean number of touchpoints per user, who has from 2 to 60
_MEAN_TOUCHPOINTS = 12.0


@dataclass(frozen=True)
class SimulatorConfig:
    """Size and seed of a market."""

    users: int = 6000
    seed: int = 7
    # length of the log
    days: int = 21
    start: str = "2024-03-01"  # first day of the log, UTC

    def __post_init__(self) -> None:
        for name, least in (("users", 1), ("seed", 0), ("days", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Outcome:
    """The outcome of one decision. All values are zero if no ad was shown."""

    cost: float  # EUR
    click: int
    conversion: int
    revenue: float  # EUR
    # real logs do not have these expected values
    expected_click: float
    expected_conversion: float
    expected_revenue: float


class Simulator:
    """A simulated market: its users, their log, and their later responses to any policy."""

    def __init__(self, config: SimulatorConfig | None = None) -> None:
        self.config = config or SimulatorConfig()
        self.spec = DatasetSpec.load("simulator")
        self.cost_cap = price_cap()  # highest possible cost of an exposure in each channel, EUR
        self.user_ids = [f"u{i:06d}" for i in range(self.config.users)]
        self._market = Market(self.config.users, self.config.seed)
        self._start = microseconds(dt.datetime.fromisoformat(self.config.start).replace(tzinfo=dt.UTC))

    def log(self) -> pd.DataFrame:
        """Return the canonical touchpoint log, with the true propensity of each logged channel."""
        return self._logged[0].copy()

    def click_probability(self) -> Floats:
        """Return the true probability of a click on every channel, for each row of `log()`."""
        return self._logged[1].copy()

    def online(self, user_ids: Sequence[str], rounds: int, seed: int, newcomers: bool = False) -> Online:
        """Return some users after the end of the log, with one opportunity per user and day.

        Args:
            rounds: Number of days.
            newcomers: Whether the users begin without a history.
        """
        return Online(self, user_ids, rounds, seed, newcomers)

    @cached_property
    def _logged(self) -> tuple[pd.DataFrame, Floats, State]:
        market, draws, user_U = self._market, self._market.draws, np.arange(self.config.users)
        more_U = -(_MEAN_TOUCHPOINTS - 1.5) * np.log1p(-draws("journey", user_U))
        length_U = np.minimum(2 + more_U, 60).astype(np.int64)
        step_T = np.arange(length_U.max())
        here_UT = step_T < length_U[:, None]
        user_UT, step_UT = np.broadcast_arrays(user_U[:, None], step_T)
        day_UT = (draws("day", user_UT, step_UT) * self.config.days).astype(np.int64)
        time_UT = np.where(here_UT, market.time(draws, user_UT, step_UT, day_UT), 2**60)
        time_UT = step_T + np.maximum.accumulate(np.sort(time_UT, axis=1) - step_T, axis=1)  # strictly increasing
        hour_UT = time_UT // HOUR_US % 24
        device_UT, placement_UT = market.context(draws, user_UT, step_UT)

        p_UTC = np.zeros((*here_UT.shape, len(CHANNELS)))
        channel_UT = np.zeros(here_UT.shape, dtype=np.int64)
        outcome_UT = {name: np.zeros(here_UT.shape) for name in OUTCOMES}
        state = State.fresh(self.config.users)
        for t in step_T.tolist():
            at_N = np.flatnonzero(here_UT[:, t])
            hour_N = hour_UT[at_N, t]
            p_NC = market.click_probability(at_N, hour_N, device_UT[at_N, t], placement_UT[at_N, t], state.of(at_N))
            channel_N = pick(market.propensity_UC[at_N], draws("logged", at_N, t))
            outcomes = market.outcomes(draws, at_N, t, channel_N, hour_N, p_NC)
            p_UTC[at_N, t], channel_UT[at_N, t] = p_NC, channel_N
            for name, values_UT in outcome_UT.items():
                values_UT[at_N, t] = outcomes[name]
            state.move(at_N, channel_N)

        user_N, channel_N = user_UT[here_UT], channel_UT[here_UT]
        log = pd.DataFrame(
            {
                "user_id": np.array(self.user_ids, dtype=object)[user_N],
                "timestamp": pd.to_datetime(time_UT[here_UT] + self._start, unit="us", utc=True).as_unit("us"),
                "campaign_id": CAMPAIGN,
                "channel": np.array(CHANNELS, dtype=object)[channel_N],
                **{name: values_UT[here_UT] for name, values_UT in outcome_UT.items()},
                "propensity": market.propensity_UC[user_N, channel_N],
                "hour": hour_UT[here_UT].astype(np.float64),
                "device": np.array(DEVICES, dtype=object)[device_UT[here_UT]],
                "placement": np.array(PLACEMENTS, dtype=object)[placement_UT[here_UT]],
                **{name: values_U[user_N] for name, values_U in market.static().items()},
            }
        )
        log = log[list(self.spec.log_columns)].astype({"click": "int64", "conversion": "int64"})
        return log, p_UTC[here_UT], state


class Online:
    """Users after the end of the log, with one opportunity per round."""

    def __init__(
        self, simulator: Simulator, user_ids: Sequence[str], rounds: int, seed: int, newcomers: bool = False
    ) -> None:
        index_of = {user: i for i, user in enumerate(simulator.user_ids)}
        log, _, state = simulator._logged
        if newcomers:
            log, state = log.iloc[:0], State.fresh(simulator.config.users)
        self._simulator, self._market, self.rounds = simulator, simulator._market, rounds
        self._row = {user: i for i, user in enumerate(user_ids)}
        self._user_U = user_U = np.array([index_of[user] for user in user_ids], dtype=np.int64)
        self._draws = draws = Draws(simulator.config.seed, seed)
        user_UR, round_UR = np.broadcast_arrays(user_U[:, None], np.arange(rounds))
        self._time_UR = self._market.time(draws, user_UR, round_UR, simulator.config.days + round_UR)
        self._hour_UR = self._time_UR // HOUR_US % 24
        self._device_UR, self._placement_UR = self._market.context(draws, user_UR, round_UR)
        self._static_U = {name: values_U[user_U].tolist() for name, values_U in self._market.static().items()}
        # effects of recent ads on each user's clicks, including the newest ad
        self.state = state.of(user_U)
        self._channel_UR = np.full((len(user_U), rounds), -1, dtype=np.int64)
        self._click_UR = np.zeros((len(user_U), rounds), dtype=np.int64)
        self._next_U = np.zeros(len(user_U), dtype=np.int64)  # each user's next round
        self._history = _History(log, user_ids, simulator.spec)

    def opportunity(self, user_id: str, round_index: int) -> dict[str, Any]:
        """Return a user's campaign id, context and UTC time in a round."""
        i = self._row[user_id]
        when = pd.Timestamp(int(self._time_UR[i, round_index]) + self._simulator._start, unit="us", tz="UTC")
        return {"campaign_id": CAMPAIGN, "context": self._context(i, round_index), "timestamp": when.to_pydatetime()}

    def step(self, user_id: str, round_index: int, channel: str | None) -> Outcome:
        """Show an ad on `channel` to a user, or no ad if `channel` is None, and return the outcome.

        The rounds of a user must be in ascending order. In skipped rounds, the user sees no ad.
        """
        code = -1 if channel is None else CHANNELS.index(channel)
        outcomes = self._respond(np.array([self._row[user_id]]), round_index, np.array([code]))
        return Outcome(**{name: values.item() for name, values in outcomes.items()})

    def rows(self, round_index: int) -> list[dict[str, Any]]:
        """Return the opportunities of all users in a round, with everything that a policy may know.

        The history has a list per column, such as hist_channel. Times are in microseconds since 1970.
        """
        u_U = self.u(round_index)
        return [
            {
                "user_id": user,
                "campaign_id": CAMPAIGN,
                "history": history,
                "context": self._context(i, round_index),
                "static": {name: values[i] for name, values in self._static_U.items()},
                "at": int(self._time_UR[i, round_index]) + self._simulator._start,
                "u": float(u_U[i]),
            }
            for (user, i), history in zip(self._row.items(), self._history.lists(), strict=True)
        ]

    def u(self, round_index: int, what: Literal["decision", "explore"] = "decision") -> Floats:
        """Return a random number in (0, 1) for each user."""
        return self._draws(what, self._user_U, round_index)

    @property
    def users(self) -> list[str]:
        """The ids of all users, in the order of the rows."""
        return list(self._row)

    def age(self) -> Ints:
        """Return the age group of each user, as an index into `AGE_GROUPS`."""
        return self._market.age_U[self._user_U]

    def interest(self) -> Floats:
        """Return the true interest of each user in each channel, in log-odds."""
        return np.asarray(self._market.interest_UC[self._user_U])

    def shown(self, round_index: int) -> tuple[Ints, Ints, Ints]:
        """Return the rows of users who saw an ad in a round, with channel and click."""
        row_N = np.flatnonzero(self._channel_UR[:, round_index] >= 0)
        return row_N, self._channel_UR[row_N, round_index], self._click_UR[row_N, round_index]

    def click_probability(self, round_index: int) -> Floats:
        """Return the click probability of every channel for every user, given earlier ads."""
        return self._p(np.arange(len(self._row)), round_index)

    def expected_cost(self, round_index: int) -> Floats:
        """Return the mean cost of an exposure on every channel for every user, EUR."""
        hour_U1 = self._hour_UR[:, round_index, None]
        return np.asarray(self._market.expected_cost(hour_U1, np.arange(len(CHANNELS))))

    def advance(
        self, round_index: int, channel_N: Ints, budget: float = np.inf, users: slice = slice(None)
    ) -> dict[str, NDArray[Any]]:
        """Show ads to users in order, within a budget in EUR, and return each user's outcomes.

        Ads stop as soon as the highest possible cost of the next ad exceeds the remaining budget.

        Args:
            channel_N: Index of each user's channel, or -1 for no ad.
        """
        # Costs do not depend on earlier ads, so all costs are known in advance.
        row_N = np.arange(len(self._row))[users]
        args = (self._draws, self._user_U[row_N], round_index, channel_N, self._hour_UR[row_N, round_index])
        cost_N = self._market.outcomes(*args, np.zeros((len(row_N), len(CHANNELS))))["cost"]
        cap_N = np.where(channel_N >= 0, np.array(list(self._simulator.cost_cap.values()))[channel_N], 0.0)
        fits_N = np.logical_and.accumulate(np.cumsum(cost_N) - cost_N + cap_N <= budget)
        channel_N = np.where(fits_N, channel_N, -1)
        outcomes = self._respond(row_N, round_index, channel_N)
        touchpoints = {
            "timestamp": self._time_UR[row_N, round_index] + self._simulator._start,
            "channel": np.array(CHANNELS, dtype=object)[channel_N],
            **{name: outcomes[name] for name in OUTCOMES},
            "hour": self._hour_UR[row_N, round_index].astype(np.float64),
            "device": np.array(DEVICES, dtype=object)[self._device_UR[row_N, round_index]],
            "placement": np.array(PLACEMENTS, dtype=object)[self._placement_UR[row_N, round_index]],
        }
        shown_N = channel_N >= 0
        self._history.append(row_N[shown_N], {name: values_N[shown_N] for name, values_N in touchpoints.items()})
        return outcomes

    def _context(self, i: int, round_index: int) -> dict[str, Any]:
        return {
            "hour": float(self._hour_UR[i, round_index]),
            "device": DEVICES[self._device_UR[i, round_index]],
            "placement": PLACEMENTS[self._placement_UR[i, round_index]],
        }

    def _p(self, row_N: Ints, round_index: int) -> Floats:
        context = (
            self._hour_UR[row_N, round_index],
            self._device_UR[row_N, round_index],
            self._placement_UR[row_N, round_index],
        )
        return self._market.click_probability(self._user_U[row_N], *context, self.state.of(row_N))

    def _respond(self, row_N: Ints, round_index: int, channel_N: Ints) -> dict[str, NDArray[Any]]:
        if not 0 <= round_index < self.rounds or (self._next_U[row_N] > round_index).any():
            raise ValueError(f"round {round_index} is over for this user, or not one of the {self.rounds} rounds")
        while (behind := self._next_U[row_N] < round_index).any():
            self.state.move(row_N[behind], np.full(int(behind.sum()), -1))
            self._next_U[row_N[behind]] += 1
        args = (self._draws, self._user_U[row_N], round_index, channel_N, self._hour_UR[row_N, round_index])
        outcomes = self._market.outcomes(*args, self._p(row_N, round_index))
        self.state.move(row_N, channel_N)
        self._next_U[row_N] = round_index + 1
        self._channel_UR[row_N, round_index], self._click_UR[row_N, round_index] = channel_N, outcomes["click"]
        return outcomes


class _History:
    def __init__(self, log: pd.DataFrame, user_ids: Sequence[str], spec: DatasetSpec) -> None:
        names = ("timestamp", "channel", *OUTCOMES, *(c.name for c in spec.context))
        row = pd.Series(range(len(user_ids)), index=list(user_ids))
        recent = log[log["user_id"].isin(row.index)].groupby("user_id").tail(spec.window)
        recent = recent.assign(timestamp=recent["timestamp"].astype("int64"))  # microseconds, as in the log
        row_P = row[recent["user_id"]].to_numpy()
        from_end_P = recent.groupby("user_id").cumcount(ascending=False).to_numpy()
        self._count_U = np.bincount(row_P, minlength=len(user_ids))
        self._last: dict[str, NDArray[Any]] = {}
        for name in names:
            values = recent[name].to_numpy()
            self._last[name] = np.zeros((len(user_ids), spec.window), dtype=values.dtype)
            self._last[name][row_P, spec.window - 1 - from_end_P] = values

    def append(self, row_N: Ints, touchpoints: dict[str, NDArray[Any]]) -> None:
        for name, values in self._last.items():
            values[row_N, :-1] = values[row_N, 1:]
            values[row_N, -1] = touchpoints[name]
        self._count_U[row_N] = np.minimum(self._count_U[row_N] + 1, len(values[0]))

    def lists(self) -> list[dict[str, list[Any]]]:
        columns = {f"hist_{name}": values.tolist() for name, values in self._last.items()}
        width = len(next(iter(self._last.values()))[0])
        return [
            {name: lists[i][width - count :] for name, lists in columns.items()}
            for i, count in enumerate(self._count_U.tolist())
        ]
