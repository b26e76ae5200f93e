"""The best known policy: it knows the true parameters of the market, and looks several opportunities ahead.

The policy follows all possible results of a user's next decisions as branches of a tree: no ad, and an ad on each
channel with and without a click.

Shapes: N users, B branches so far, C channels, K = 2 C + 1 branches of a decision, F favourite (no, yes), Q quadrature.
"""

from typing import NamedTuple

import numpy as np

from mtorl.arrays import Floats
from mtorl.policy.decision import Forecast
from mtorl.simulator import market
from mtorl.simulator.informed import Informed
from mtorl.simulator.simulator import Online

# Users computed at a time. With 8, the branches at depth 3 fit into the processor's cache.
_USERS = 8
_TINY = np.float32(1e-30)
_CHANNELS = len(market.CHANNELS)
_TRAFFIC = 1.0 + 0.8 * np.cos((np.arange(24) - market.BUSY_HOUR) * (2 * np.pi / 24))
_NONE, _EACH = np.zeros((1, _CHANNELS)), np.eye(_CHANNELS)
_SHOWN_KC = np.concatenate([_NONE, _EACH, _EACH])
_CARRIED_KC = _SHOWN_KC @ market.CARRY_OVER


class Later(NamedTuple):
    """One later opportunity of each user, with a random context.

    Attributes:
        odds: Effect of the context on the log-odds of a click (N, 1, C).
        cost: Mean cost of an exposure on each channel (N, 1, C).
    """

    odds: Floats
    cost: Floats


class Users(NamedTuple):
    """The state of each user in each branch of the tree.

    Attributes:
        likelihood: Likelihood of the clicks so far, for each possible interest in each channel (N, B, C, F, Q).
        carry: Increase of the click's log-odds by earlier ads (N, B, C).
        fatigue: Decaying number of earlier ads, which reduces the log-odds of a click (N, B, C).
    """

    likelihood: Floats
    carry: Floats
    fatigue: Floats


class InformedAhead:
    """Computes the gain of an exposure, plus the gain that it adds at the next `depth` opportunities."""

    def __init__(self, informed: Informed, depth: int, seed: int) -> None:
        self._informed, self._depth = informed, depth
        self._draws = np.random.default_rng(seed)

    def __call__(self, online: Online, round_index: int, part: slice, price: float, forecast: Forecast) -> Floats:
        """Return the value of an exposure on each channel, including the value that it adds later.

        `informed` must have forecast this round before.
        """
        depth = min(self._depth, online.rounds - 1 - round_index)
        rows = np.arange(len(online.users))[part]
        added = [self._added(online, rows[i : i + _USERS], depth, price) for i in range(0, len(rows), _USERS)]
        return np.asarray(forecast.gain_BC) + np.concatenate(added)

    def _added(self, online: Online, row_N: np.ndarray, depth: int, price: float) -> Floats:
        informed, state = self._informed, online.state.of(row_N)
        log_NCFQ = informed.evidence_UCFQ[row_N] + informed.log_weight_Q
        likelihood_NCFQ = np.exp(log_NCFQ - log_NCFQ.max(axis=(2, 3), keepdims=True)).astype(np.float32)
        users = Users(*(values[:, None] for values in (likelihood_NCFQ, state.carry_UC, state.fatigue_UC)))
        favourite_N1C = market.FAVOURITE[online.age()[row_N]][:, None]
        tree = _Tree(informed.interest_FQ.astype(np.float32), favourite_N1C, price)
        later = [self._draw(len(row_N)) for _ in range(depth)]
        added, _ = tree.added(users, *tree.clicks(users, informed.rest_UC[row_N][:, None]), later)
        return added[:, 0]

    def _draw(self, users: int) -> Later:
        hour = self._draws.choice(24, (users, 1, 1), p=_TRAFFIC / _TRAFFIC.sum())
        device = self._draws.choice(len(market.DEVICES), users, p=market.DEVICE_SHARE)
        placement = self._draws.choice(len(market.PLACEMENTS), users, p=market.PLACEMENT_SHARE)
        season = market.SEASON * np.cos((hour - market.PEAK_HOUR) * (2 * np.pi / 24))
        effects = market.DEVICE_EFFECT[device][:, None] + market.PLACEMENT_EFFECT[placement][:, None, None]
        return Later(market.BASE + season + effects, market.Market.expected_cost(hour, np.arange(_CHANNELS)))


class _Tree:
    """Computes the value of users' later opportunities.

    `price` is the gain that a currency unit must yield for an ad to be shown.
    """

    def __init__(self, interest_FQ: Floats, favourite_N1C: Floats, price: float) -> None:
        self._interest_FQ, self._favourite_N1C, self._price = interest_FQ, favourite_N1C, price

    def added(self, users: Users, p: Floats, p_FQ: Floats, later: list[Later]) -> tuple[Floats, Floats]:
        """Return what an exposure adds at the opportunities `later` (N, B, C), and their value without it (N, B).

        `p` and `p_FQ` are the present click probabilities from `clicks`.
        """
        if not later:
            return np.zeros(p.shape), np.zeros(p.shape[:2])
        likelihood = np.repeat(users.likelihood[:, :, None], len(_SHOWN_KC), axis=2)
        for c in range(_CHANNELS):
            likelihood[:, :, 1 + c, c] *= 1 - p_FQ[:, :, c]
            likelihood[:, :, 1 + _CHANNELS + c, c] *= p_FQ[:, :, c]
        carry = market.CARRY_KEPT * users.carry[:, :, None] + _CARRIED_KC
        fatigue = market.FATIGUE_KEPT * users.fatigue[:, :, None] + _SHOWN_KC
        size, before = p.shape[:2]
        moved = Users(*(values.reshape(size, -1, *values.shape[3:]) for values in (likelihood, carry, fatigue)))
        value_NBK = self._value(moved, later).reshape(size, before, -1)
        none, missed, clicked = np.split(value_NBK, [1, 1 + _CHANNELS], axis=2)
        return p * clicked + (1 - p) * missed - none, none[..., 0]

    def _value(self, users: Users, later: list[Later]) -> Floats:
        """Return the total value (N, B) of the opportunities `later` under the best actions."""
        now, *then = later
        p, p_FQ = self.clicks(users, now.odds + users.carry - market.FATIGUE * users.fatigue)
        added, after = self.added(users, p, p_FQ, then)
        return np.maximum((p + added - self._price * now.cost).max(axis=-1), 0.0) + after

    def clicks(self, users: Users, rest: Floats) -> tuple[Floats, Floats]:
        """Return the click probability of each channel (N, B, C), and of each possible interest (N, B, C, F, Q)."""
        p_FQ = -(rest[..., None, None].astype(np.float32) + self._interest_FQ)
        np.exp(p_FQ, out=p_FQ)
        p_FQ += 1
        np.reciprocal(p_FQ, out=p_FQ)
        mass_F = np.maximum(users.likelihood.sum(axis=-1), _TINY)
        p_F = np.einsum("nbcfq,nbcfq->nbcf", users.likelihood, p_FQ) / mass_F
        favourite = self._favourite_N1C * (mass_F[..., 1] / mass_F[..., 0])
        favourite /= favourite.sum(axis=-1, keepdims=True)
        return favourite * p_F[..., 1] + (1 - favourite) * p_F[..., 0], p_FQ
