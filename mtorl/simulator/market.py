"""Defines how users respond to ads. `simulator.py` creates a log of responses, and opportunities to decide on.

A user permanently likes some channels more than others. No column contains this interest, but clicks reveal it. The
log-odds of a click on a channel are the sum of:

    interest    latent, by user and channel; the favourite depends on the age group
    carry-over  an ad on one channel raises the response to others for a while (CARRY_OVER)
    fatigue     recent ads on the same channel lower the response, which recovers while the channel pauses
    season      each channel has its best hour of the day
    device      each channel has its best device; placement affects all channels alike

So the best channel depends on a user's clicks, the last few ads and the context. There is no random stream: each number
is a hash of (seeds, purpose, user, step). A different choice for one user changes no number of any other user or step,
so policies are compared on common random numbers.

Shape suffixes: U users, T steps, N selected users, C channels (search, social, display, video).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtri, softmax

from mtorl.arrays import Floats, Ints

CHANNELS = ("search", "social", "display", "video")
DEVICES = ("mobile", "desktop", "tablet")
PLACEMENTS = ("feed", "article", "sidebar", "story")
AGE_GROUPS = ("18-24", "25-34", "35-49", "50-64", "65+")
REGIONS = ("north", "south", "east", "west")

AGE_SHARE = np.array([0.18, 0.26, 0.26, 0.18, 0.12])
DEVICE_SHARE = np.array([0.6, 0.3, 0.1])
PLACEMENT_SHARE = np.array([0.4, 0.25, 0.2, 0.15])
# one row per age group, one column per channel
FAVOURITE = np.array(
    [
        [0.10, 0.40, 0.05, 0.45],
        [0.20, 0.35, 0.10, 0.35],
        [0.35, 0.25, 0.15, 0.25],
        [0.40, 0.15, 0.30, 0.15],
        [0.40, 0.10, 0.35, 0.15],
    ]
)
LOGGED = np.array(
    [[0.0, 0.7, 0.5, 0.4], [0.2, 0.6, 0.6, 0.2], [0.5, 0.3, 0.8, 0.1], [0.6, 0.1, 0.9, 0.0], [0.6, 0.0, 1.0, 0.0]]
)
# share of the logged decisions whose channel is drawn uniformly
EXPLORATION = 0.3
# common log-odds of a click, bonus of the favourite channel, and standard deviation of a user's interest
BASE, LIKES, SPREAD = -3.85, 2.6, 0.45
SEASON, PEAK_HOUR = 0.35, np.array([11.0, 20.0, 14.0, 21.0])
DEVICE_EFFECT = np.array([[-0.2, 0.3, -0.1, 0.2], [0.4, -0.3, 0.2, -0.2], [0.0, 0.0, 0.0, 0.2]])
PLACEMENT_EFFECT = np.array([0.25, 0.05, -0.35, 0.05])
# increase of the log-odds of later clicks; row: channel of the ad, column: channel of the click
CARRY_OVER = np.array(
    [[0.0, 0.05, 0.05, 0.05], [0.20, 0.0, 0.10, 0.10], [0.35, 0.15, 0.0, 0.10], [0.35, 0.20, 0.10, 0.0]]
)
# decrease of the log-odds of a click for each recent ad on the same channel
FATIGUE = 0.35
# fractions that remain at the user's next opportunity
FATIGUE_KEPT, CARRY_KEPT = 0.6, 0.7

# mean cost of an exposure in each channel, EUR
PRICE = np.array([0.50, 0.30, 0.20, 0.40])
# largest relative change of a cost, by the hour and by chance
PRICE_SEASON, PRICE_NOISE = 0.20, 0.25
# mean and standard deviation of the logarithm of a purchase's value in EUR
BASKET, BASKET_SPREAD = 3.2, 0.5
BUSY_HOUR = 19.0


def price_cap() -> dict[str, float]:
    """Return the highest possible cost of an exposure in each channel, EUR."""
    caps = PRICE * (1 + PRICE_SEASON) * (1 + PRICE_NOISE)
    return dict(zip(CHANNELS, np.round(caps, 6).tolist(), strict=True))


class Draws:
    """Computes random numbers in (0, 1) by hashing, so that every policy sees the same numbers for a user and step."""

    def __init__(self, *seeds: int) -> None:
        self._key = np.zeros(1, dtype=np.uint64)
        for seed in seeds:
            self._key = _mix(self._key + np.uint64(seed + 1))

    def __call__(self, what: str, user: int | Ints, step: int | Ints = 0) -> Floats:
        """Return the random numbers for a purpose. Arrays of users and steps are broadcast."""
        key = _mix(self._key + np.uint64(zlib.crc32(what.encode())))
        for index in (user, step):
            key = _mix(key + np.asarray(index).astype(np.uint64) + np.uint64(1))
        return np.asarray(((key >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53)


def _mix(key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the bits of each integer by SplitMix64 (Steele et al. 2014). The multiplications overflow on purpose."""
    key = key * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x632BE59BD9B4E019)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


def pick(probabilities: Floats, draw: Floats) -> Ints:
    """Return the category that each random number selects.

    Args:
        probabilities: One row that is used for all random numbers, or one row for each of them.
    """
    edges = np.cumsum(probabilities, axis=-1)[..., :-1]
    return np.asarray((draw[..., None] >= edges).sum(axis=-1), dtype=np.int64)


@dataclass
class State:
    """Stores the effects of recent ads on each user's clicks on each channel.

    Carry-over is in log-odds. Fatigue is a count of recent ads, in which older ads count less.
    """

    carry_UC: Floats
    fatigue_UC: Floats

    @classmethod
    def fresh(cls, users: int) -> State:
        """Create the state of users who have not seen any ad."""
        return cls(np.zeros((users, len(CHANNELS))), np.zeros((users, len(CHANNELS))))

    def of(self, user_N: Ints) -> State:
        """Return a copy of the state for some users."""
        return State(self.carry_UC[user_N], self.fatigue_UC[user_N])

    def move(self, user_N: Ints, channel_N: Ints) -> None:
        """Update the state of some users for their next opportunity.

        Args:
            channel_N: Channel of the ad that each user saw, or -1 for no ad.
        """
        shown_NC = (channel_N[:, None] == np.arange(len(CHANNELS))).astype(np.float64)
        self.carry_UC[user_N] = CARRY_KEPT * self.carry_UC[user_N] + shown_NC @ CARRY_OVER
        self.fatigue_UC[user_N] = FATIGUE_KEPT * self.fatigue_UC[user_N] + shown_NC


class Market:
    """The users of a market: their fixed traits, and how they respond to ads."""

    def __init__(self, users: int, seed: int) -> None:
        self.draws = draws = Draws(seed)
        user_U = np.arange(users)
        self.age_U = pick(AGE_SHARE, draws("age", user_U))
        self.region_U = pick(np.full(len(REGIONS), 1 / len(REGIONS)), draws("region", user_U))
        self.tenure_U = np.floor(np.minimum(1 - 400 * np.log1p(-draws("tenure", user_U)), 3650.0))  # days
        self.device_U = pick(DEVICE_SHARE, draws("own device", user_U))
        self.favourite_U = pick(FAVOURITE[self.age_U], draws("favourite", user_U))
        channel_C = np.arange(len(CHANNELS))
        self.interest_UC = SPREAD * ndtri(draws("interest", user_U[:, None], channel_C))
        self.interest_UC += LIKES * (channel_C == self.favourite_U[:, None])
        self.propensity_UC = (1 - EXPLORATION) * softmax(LOGGED, axis=1)[self.age_U] + EXPLORATION / len(CHANNELS)

    def static(self) -> dict[str, NDArray[Any]]:
        """Return the static features of each user."""
        return {
            "age_group": np.array(AGE_GROUPS, dtype=object)[self.age_U],
            "tenure_days": self.tenure_U,
            "region": np.array(REGIONS, dtype=object)[self.region_U],
        }

    def context(self, draws: Draws, user_N: Ints, step: int | Ints) -> tuple[Ints, Ints]:
        """Return the codes of the device and placement of each opportunity."""
        other = pick(np.full(len(DEVICES), 1 / len(DEVICES)), draws("other device", user_N, step))
        device = np.where(draws("device", user_N, step) < 0.7, self.device_U[user_N], other)
        return device, pick(PLACEMENT_SHARE, draws("placement", user_N, step))

    def time(self, draws: Draws, user_N: Ints, step: int | Ints, day: int | Ints) -> Ints:
        """Return random times on a day, in microseconds since the start of the market."""
        traffic = 1.0 + 0.8 * np.cos((np.arange(24) - BUSY_HOUR) * (2 * np.pi / 24))
        hour = pick(traffic / traffic.sum(), draws("hour", user_N, step))
        return ((day * 24 + hour + draws("minute", user_N, step)) * 3600e6).astype(np.int64)

    def click_probability(self, user_N: Ints, hour_N: Ints, device_N: Ints, placement_N: Ints, state: State) -> Floats:
        """Return the probability of a click on each channel, if the user sees an ad there."""
        log_odds_NC = BASE + self.interest_UC[user_N] + DEVICE_EFFECT[device_N] + PLACEMENT_EFFECT[placement_N, None]
        log_odds_NC += SEASON * np.cos((hour_N[:, None] - PEAK_HOUR) * (2 * np.pi / 24))
        return np.asarray(expit(log_odds_NC + state.carry_UC - FATIGUE * state.fatigue_UC))

    @staticmethod
    def expected_cost(hour_N: Ints, channel_N: Ints) -> Floats:
        """Return the mean cost of an exposure on a channel at an hour of the day, EUR."""
        busy_N = np.cos((hour_N - BUSY_HOUR) * (2 * np.pi / 24))
        return np.asarray(PRICE[channel_N] * (1 + PRICE_SEASON * busy_N))

    def outcomes(
        self, draws: Draws, user_N: Ints, step: int, channel_N: Ints, hour_N: Ints, p_NC: Floats
    ) -> dict[str, NDArray[Any]]:
        """Return the outcomes after each user sees an ad on a channel. Users with channel -1 see no ad and get zeros.

        Cost and revenue are in EUR. Expected values, such as `expected_click`, exist only in a simulation.
        """
        shown_N = channel_N >= 0
        p_N = np.where(shown_N, np.take_along_axis(p_NC, np.maximum(channel_N, 0)[:, None], axis=1)[:, 0], 0.0)
        chance_N = 2 * draws("cost", user_N, step) - 1
        cost_N = self.expected_cost(hour_N, channel_N) * (1 + PRICE_NOISE * chance_N)
        click_N = draws("click", user_N, step) < p_N
        interested_N = channel_N == self.favourite_U[user_N]
        buys_N = expit(-2.5 + 0.5 * interested_N + 0.0005 * (self.tenure_U[user_N] - 400))
        conversion_N = click_N & (draws("conversion", user_N, step) < buys_N)
        basket_N = np.round(np.exp(BASKET + BASKET_SPREAD * ndtri(draws("revenue", user_N, step))), 2)
        return {
            "cost": np.where(shown_N, np.round(cost_N, 6), 0.0),
            "click": click_N.astype(np.int64),
            "conversion": conversion_N.astype(np.int64),
            "revenue": np.where(conversion_N, basket_N, 0.0),
            "expected_click": p_N,
            "expected_conversion": p_N * buys_N,
            "expected_revenue": p_N * buys_N * np.exp(BASKET + BASKET_SPREAD**2 / 2),
        }
