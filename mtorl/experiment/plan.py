"""How many users an experiment needs, before the first of them comes: by playing it, with users of the log.

    found = needed_users(Population(figures), effect=0.05, share=0.5, alpha=0.05)
    found.users, found.power

Each run draws users with replacement from those who were seen, gives the challenger's more, or larger, outcomes by the
planned effect, and looks as often as people may, with the functions of the verdict (`mtorl.experiment.statistics`). So
what a verdict asks for beyond a small variance is part of it: the width of intervals that are always valid, the fewest
users with a positive outcome, users who decide far oftener than others. The answer is the first number of users by
which the wanted share of the runs has found the challenger better.

Shapes: U users of the log; A = 2 arms, challenger first; L looks; 2 = numerator, denominator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtorl.experiment.statistics import MIN_USERS, confidence_sequence, estimate
from mtorl.experiment.sums import Floats, Sums
from mtorl.runtime.progress import report

POWER = 0.8
LOOKS = 300
MOST_USERS = 5_000_000
"""More than that nobody waits for; the effect is too small to be found."""
_DRAWS = 300_000_000  # users of all runs together: what a minute or so draws
_RUNS = (400, 2_000)  # as few as tell 80 % from 75 %; as many as tell it from 78 %
_LOOKS_AT_ONCE = 40  # whose users are in memory


@dataclass(frozen=True)
class Population:
    """Users as the log has them.

    Attributes:
        figures_U2: Numerator and denominator of the primary metric, of each.
        counts: Whether outcomes are counted, as clicks are: a better policy then has more of them. Otherwise, as of
            revenues, it has larger ones, which takes many more users to find where few users have any.
    """

    figures_U2: Floats
    counts: bool = True

    @property
    def ratio(self) -> float:
        """The metric; 0 without any user."""
        numerator, denominator = self.figures_U2.sum(0)
        return float(numerator / denominator) if denominator > 0 else 0.0

    def deviation(self) -> float:
        """Standard deviation of what a user adds to the difference of two even arms, per effective user."""
        numerator, denominator = self.figures_U2.T
        residual = (numerator - self.ratio * denominator) / denominator.mean()
        return 2.0 * float(residual.std())


@dataclass(frozen=True)
class Plan:
    """What an experiment needs.

    Attributes:
        users: Of all arms together.
        power: Share of the runs that found the challenger better by then.
        runs: How many were played.
    """

    users: int
    power: float
    runs: int


def needed_users(
    population: Population,
    effect: float,
    share: float,
    alpha: float,
    *,
    tightest_at: int = 2_000,
    power: float = POWER,
    seed: int = 0,
) -> Plan | None:
    """The fewest users with which an effect is found with a wanted probability; None: more than `MOST_USERS`.

    Args:
        population: Users of the incumbent.
        effect: By how much the challenger's metric is larger, as a share of the incumbent's.
        share: Of the users who get the challenger.
        alpha: Error rate of the comparison.
        tightest_at: As of the verdict.
        power: The wanted probability.
        seed: Of all draws.

    Raises:
        ValueError: the log says too little, or an argument makes no sense.
    """
    if not 0.0 < effect < 1.0:
        raise ValueError(f"effect: expected a share above 0 and below 1, got {effect:g}")
    if not 0.0 < share < 1.0:
        raise ValueError(f"share: expected a share above 0 and below 1, got {share:g}")
    if len(population.figures_U2) < MIN_USERS or not population.ratio > 0.0:
        raise ValueError(
            f"the log has {len(population.figures_U2):,} users of the incumbent, {population.ratio:.4g} a decision: "
            f"{MIN_USERS} users, and some gain, are needed to plan with"
        )
    # One look at the end would need that many effective users; looking at any time at least some 1.5 times as many.
    one_look = (2.8 * population.deviation() / (effect * population.ratio)) ** 2 / (4.0 * share * (1.0 - share))
    most = max(2.0 * one_look, 20.0 * MIN_USERS / min(share, 1.0 - share))
    while most < 2 * MOST_USERS:
        looks_L = _looks(most)
        runs = int(np.clip(_DRAWS / most, *_RUNS))
        first = np.zeros(len(looks_L))
        for run in range(runs):
            rng = np.random.default_rng([seed, run])
            found = estimate(_play(rng, population, effect, share, looks_L))
            low, _ = confidence_sequence(
                found.value, found.se, found.effective_users, alpha=alpha, tightest_at=tightest_at
            )
            better = low > 0.0  # NaN, where nothing is known yet, is not
            first[int(better.argmax()) :] += bool(better.any())
            report(run + 1, runs)
        reached = first / runs >= power
        if reached.any():
            look = int(reached.argmax())
            return Plan(int(looks_L[look]), float(first[look] / runs), runs)
        most *= 3.0
    return None


def _looks(most: float) -> np.ndarray:
    """Numbers of users at which people look: often where the answer is likely."""
    early, late = np.geomspace(MIN_USERS, most / 5.0, LOOKS // 5), np.linspace(most / 5.0, most, LOOKS)
    return np.unique(np.concatenate([early, late]).astype(np.int64))


def _play(rng: np.random.Generator, population: Population, effect: float, share: float, looks_L: np.ndarray) -> Sums:
    """What the users of one experiment add up to at each look.

    Where the challenger's outcomes are more, some of its users bring besides what another one brings.
    """
    numerator_U, denominator_U = population.figures_U2.T
    at_looks = np.zeros((len(looks_L), 2, 7))
    starts = np.concatenate([[0], looks_L[:-1]])
    for first in range(0, len(looks_L), _LOOKS_AT_ONCE):
        chosen = slice(first, first + _LOOKS_AT_ONCE)
        begin, end = starts[chosen][0], looks_L[chosen][-1]
        drawn = rng.integers(len(numerator_U), size=end - begin)
        numerator, denominator = numerator_U[drawn], denominator_U[drawn]
        challengers = rng.random(end - begin) < share
        if population.counts:
            more = np.flatnonzero(challengers & (rng.random(end - begin) < effect))
            numerator[more] += numerator_U[rng.integers(len(numerator_U), size=len(more))]
        else:
            numerator[challengers] *= 1.0 + effect
        figures = np.stack(
            [
                np.ones_like(numerator),
                numerator > 0,
                numerator,
                denominator,
                numerator**2,
                numerator * denominator,
                denominator**2,
            ]
        )
        for arm, there in enumerate((challengers, ~challengers)):
            at_looks[chosen, arm] = np.add.reduceat(figures * there, starts[chosen] - begin, axis=1).T
    at_looks = at_looks.cumsum(0)
    products = np.zeros((len(looks_L), 4, 4))
    for arm in range(2):
        square, mixed, squared = np.moveaxis(at_looks[:, arm, 4:], -1, 0)
        block = np.stack([np.stack([square, mixed], -1), np.stack([mixed, squared], -1)], -2)
        products[:, 2 * arm : 2 * arm + 2, 2 * arm : 2 * arm + 2] = block
    return Sums(at_looks[:, :, 0, None], at_looks[:, :, 1, None], at_looks[:, :, None, 2:4], products)
