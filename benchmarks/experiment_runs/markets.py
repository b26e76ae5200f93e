"""Simulates users of two kinds of markets: frequent clicks, or rare revenues of very different size."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import betabinom, poisson

from mtorl.experiment.inference.heavy_users import user_weights
from mtorl.experiment.inference.sums import Floats, Sums

DECISIONS_OF_A_BOT = 3_000.0
_MOST_DECISIONS = 9


@dataclass(frozen=True)
class Market:
    """A simulated market.

    Attributes:
        rate: Mean gain per decision with the incumbent.
        users: Number of users who come once.
        population: Number of users who return.
        lift: Relative increase of the gain by the challenger. The value 0.1 means 10 %.
        typical: Median number of decisions of a user.
        bots: Share of the decisions by bots.
    """

    name: str
    rate: float
    users: int
    population: int
    lift: float = 0.0
    typical: float = 1.0
    bots: float = 0.0
    bot_rate: float = 0.0

    @property
    def true_lift(self) -> float:
        """Difference of the arms in gain per decision."""
        return self.rate * self.lift

    def people(self, rng: np.random.Generator, users: np.ndarray, challenger: bool) -> Sums:
        """Simulate the users of one arm without bots."""
        raise NotImplementedError

    def arm(self, rng: np.random.Generator, users: np.ndarray, challenger: bool) -> Sums:
        """Simulate the users of one arm, who come once each, and return the sums at each look.

        Args:
            users: Number of new users between two looks, for each experiment (R, L).
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
    """A market of clicks. A user makes 1 + Poisson(2) decisions with a click rate from Beta(1, 1 / rate - 1)."""

    name: str = "clicks"
    rate: float = 0.1
    users: int = 100_000
    population: int = 20_000
    typical: float = 3.0

    def _table(self, rate: float) -> tuple[Floats, Floats]:
        """Return a user's possible pairs of clicks and decisions (K, 2), and their probabilities (K,)."""
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
        """Draw a click rate for each returning user, (U,)."""
        return rng.beta(1.0, 1.0 / self.rate - 1.0, users)

    def visit(self, rng: np.random.Generator, rates: Floats) -> Floats:
        """Simulate one visit of each user. Returns clicks and decisions, (U, 2)."""
        decisions = 1 + rng.poisson(2.0, len(rates))
        return np.stack([rng.binomial(decisions, rates), decisions], -1).astype(np.float64)


@dataclass(frozen=True)
class Revenue(Market):
    """A market of purchases with a lognormal revenue of mean 1. A user makes one decision."""

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
        """Draw a purchase rate for each returning user, (U,). Half of them buy three times as often as the others."""
        return self.rate * rng.choice([0.5, 1.5], users)

    def visit(self, rng: np.random.Generator, rates: Floats) -> Floats:
        """See `Clicks.visit`."""
        bought = rng.random(len(rates)) < rates
        figures = np.ones((len(rates), 2))
        figures[~bought, 0] = 0.0
        figures[bought, 0] = self._amounts(rng, int(bought.sum()), challenger=False)
        return figures
