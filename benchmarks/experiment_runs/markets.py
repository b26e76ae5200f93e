"""Simulates users of two markets: clicks over several decisions, or rare revenues with a heavy tail."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import betabinom, poisson

from mtorl.experiment.inference.heavy_users import user_weights
from mtorl.experiment.inference.sums import Floats, Sums

DECISIONS_OF_A_BOT = 3_000.0
_MOST_DECISIONS = 9


@dataclass(frozen=True)
class Market:
    """A market whose users make decisions with a mean gain of `rate` each."""

    name: str
    rate: float  # gain per decision of the incumbent
    users: int  # number of users who come once
    population: int  # number of users who return
    lift: float = 0.0  # relative lift of the challenger's gain
    typical: float = 1.0  # median decisions of a user
    bots: float = 0.0  # share of the bots' decisions among those of users who come once
    bot_rate: float = 0.0  # a bot's gain per decision

    @property
    def true_lift(self) -> float:
        """The true (absolute) lift of the gain per decision."""
        return self.rate * self.lift

    def people(self, rng: np.random.Generator, users: np.ndarray, challenger: bool) -> Sums:
        """Sums of the users who are not bots."""
        raise NotImplementedError

    def arm(self, rng: np.random.Generator, users: np.ndarray, challenger: bool) -> Sums:
        """Sums of an arm at each look, for users who come once; `users` (R, L) are the new users of each run and look.

        Bots decide thousands of times, and have the weight that the verdict gives them.
        """
        of_people = self.bots / (1.0 - self.bots) * self.typical / DECISIONS_OF_A_BOT
        bots = rng.binomial(users, of_people / (1.0 + of_people))
        people, count = self.people(rng, users - bots, challenger), bots.cumsum(1).astype(np.float64)
        decisions = DECISIONS_OF_A_BOT * user_weights(np.array(DECISIONS_OF_A_BOT), self.typical)
        figures = decisions * np.array([self.bot_rate, 1.0])
        return Sums(
            people.users + count,
            people.positive + count * (self.bot_rate > 0.0),
            people.totals + count[..., None] * figures,
            people.products + count[..., None, None] * np.outer(figures, figures),
        )


@dataclass(frozen=True)
class Clicks(Market):
    """Users decide 1 + Poisson(2) times and click at their own rate, drawn from Beta(1, 1 / rate - 1)."""

    name: str = "clicks"
    rate: float = 0.1
    users: int = 100_000
    population: int = 20_000
    typical: float = 3.0

    def _table(self, rate: float) -> tuple[Floats, Floats]:
        """Kinds of users: clicks and decisions (K, 2), and the probability of each kind (K,)."""
        decisions, clicks = np.indices((_MOST_DECISIONS + 1, _MOST_DECISIONS + 1))
        likely = poisson.pmf(decisions - 1, 2.0) * betabinom.pmf(clicks, decisions, 1.0, 1.0 / rate - 1.0)
        possible = (decisions > 0) & (clicks <= decisions)
        figures = np.stack([clicks[possible], decisions[possible]], -1).astype(np.float64)
        return figures, likely[possible] / likely[possible].sum()

    def people(self, rng: np.random.Generator, users: np.ndarray, challenger: bool) -> Sums:
        """See `Market.people`."""
        figures, likely = self._table(self.rate * (1.0 + self.lift * challenger))
        counts = rng.multinomial(users, likely).cumsum(1).astype(np.float64)
        pairs = (figures[:, :, None] * figures[:, None, :]).reshape(-1, 4)
        return Sums(
            counts.sum(-1),
            counts[..., figures[:, 0] > 0].sum(-1),
            counts @ figures,
            (counts @ pairs).reshape(*counts.shape[:2], 2, 2),
        )

    def rates(self, rng: np.random.Generator, users: int) -> Floats:
        """The rate of each returning user, (U,)."""
        return rng.beta(1.0, 1.0 / self.rate - 1.0, users)

    def visit(self, rng: np.random.Generator, rates: Floats) -> Floats:
        """Clicks and decisions of users at a visit, (U, 2)."""
        decisions = 1 + rng.poisson(2.0, len(rates))
        return np.stack([rng.binomial(decisions, rates), decisions], -1).astype(np.float64)


@dataclass(frozen=True)
class Revenue(Market):
    """Users decide once and buy with the probability `rate`; revenues are lognormal with mean 1."""

    name: str = "revenue"
    rate: float = 0.02
    users: int = 2_000_000
    population: int = 40_000
    sigma: float = 1.5

    def _amounts(self, rng: np.random.Generator, buyers: int, challenger: bool) -> Floats:
        return (1.0 + self.lift * challenger) * rng.lognormal(-(self.sigma**2) / 2.0, self.sigma, buyers)

    def people(self, rng: np.random.Generator, users: np.ndarray, challenger: bool) -> Sums:
        """See `Market.people`."""
        buyers = rng.binomial(users, self.rate)
        amounts = self._amounts(rng, int(buyers.sum()), challenger)
        ends = buyers.ravel().cumsum()

        def at_looks(values: Floats) -> Floats:
            summed = np.concatenate([[0.0], values.cumsum()])
            return np.diff(summed[ends], prepend=0.0).reshape(users.shape).cumsum(1)

        n, revenue, square = users.cumsum(1).astype(np.float64), at_looks(amounts), at_looks(amounts**2)
        products = np.stack([square, revenue, revenue, n], -1).reshape(*n.shape, 2, 2)
        return Sums(n, buyers.cumsum(1).astype(np.float64), np.stack([revenue, n], -1), products)

    def rates(self, rng: np.random.Generator, users: int) -> Floats:
        """See `Clicks.rates`; some users buy three times as often as the others."""
        return self.rate * rng.choice([0.5, 1.5], users)

    def visit(self, rng: np.random.Generator, rates: Floats) -> Floats:
        """See `Clicks.visit`."""
        bought = rng.random(len(rates)) < rates
        figures = np.ones((len(rates), 2))
        figures[~bought, 0] = 0.0
        figures[bought, 0] = self._amounts(rng, int(bought.sum()), challenger=False)
        return figures
