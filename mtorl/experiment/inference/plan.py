"""Plans the number of users of an experiment before it starts, by simulations with users of the log.

    requirements(seen, experiment, effect=0.05)         # users, days and money, from the incumbent's users so far
    found = needed_users(Population(figures), effect=0.05, share=0.5, alpha=0.05)
    found.users, found.power

Each simulated run draws users from the log with replacement, and raises the number or the size of the challenger's
outcomes by the planned effect. It then looks at the result as often as people may, with the verdict's own functions
(`statistics.py`). So the plan accounts for always-valid intervals, for the minimum number of users with a positive
outcome, and for very busy users. The answer is the smallest number of users at which the wanted share of runs (the
power) has found the challenger to be better. Covariates are not simulated; with covariates, fewer users suffice.

Shapes: U users of the log; A = 2 arms, challenger first; L looks; 2 = numerator, denominator.
"""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mtorl.experiment import messages
from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.inference.statistics import MIN_USERS, confidence_sequence, estimate
from mtorl.experiment.inference.sums import Floats, Sums
from mtorl.experiment.inference.verdict import ErrorShares
from mtorl.runtime.progress import report

POWER = 0.8
LOOKS = 300
# If more users are needed, the effect counts as too small to be found.
MOST_USERS = 5_000_000
# Number of users to draw in all simulated runs together, which takes about a minute.
_DRAWS = 300_000_000
# Fewest and most simulated runs.
_RUNS = (400, 2_000)
# Number of looks simulated at once; their users are all in memory.
_LOOKS_AT_ONCE = 40
# Fewest days of a log from which the number of users per day is estimated.
_WHOLE_DAY = 0.9


@dataclass(frozen=True)
class Population:
    """The users of a log, from which the users of a simulated experiment are drawn."""

    figures_U2: Floats  # numerator and denominator of the primary metric
    # True if outcomes are counts, such as clicks; false if they are amounts, such as revenue.
    counts: bool = True

    @property
    def ratio(self) -> float:
        """Return the metric over all users; 0 if there are no users."""
        numerator, denominator = self.figures_U2.sum(0)
        return float(numerator / denominator) if denominator > 0 else 0.0

    def part_of(self, chosen_N: npt.NDArray[np.intp], share: float, rng: np.random.Generator) -> Floats:
        """Return a random part of the outcomes of some users, on average the fraction `share`.

        Whole numbers, such as clicks, are kept one by one. Any other outcome is kept or dropped as a whole.
        """
        numerator_N = self.figures_U2[chosen_N, 0]
        part_N: Floats = (
            rng.binomial(numerator_N.astype(np.int64), share).astype(np.float64)
            if self._whole
            else np.where(rng.random(len(chosen_N)) < share, numerator_N, 0.0)
        )
        return part_N

    @cached_property
    def _whole(self) -> bool:
        numerator_U = self.figures_U2[:, 0]
        return bool(np.all((numerator_U >= 0) & (numerator_U == np.floor(numerator_U))))

    def deviation(self) -> float:
        """Return the standard error of the lift between two equal arms, multiplied by the root of the user count."""
        numerator_U, denominator_U = self.figures_U2.T
        return 2.0 * float((numerator_U - self.ratio * denominator_U).std() / denominator_U.mean())


@dataclass(frozen=True)
class Plan:
    """Planned size of an experiment."""

    users: int  # in all arms together
    # Share of the simulated runs that found the challenger to be better.
    power: float
    runs: int


class IncumbentUsers(NamedTuple):
    """The users who got the incumbent's decisions in a log, with figures about these decisions."""

    population: Population
    decisions: int
    cost_per_decision: float
    days: float
    unit: str  # unit of the primary metric


def requirements(
    seen: IncumbentUsers, experiment: Experiment, effect: float, share: float = 0.5, users_a_day: float = 0.0
) -> dict[str, Any] | None:
    """Return the users, days and money that an experiment needs to find an effect.

    Returns None if the experiment would need more than `MOST_USERS` users.

    Args:
        effect: Increase of the metric, as a fraction of the incumbent's metric.
        share: Fraction of the users who get the challenger.
        users_a_day: New users per day. 0 means that the number is estimated from the log.

    Raises:
        ValueError: the log has too few users or no gain, or `effect` or `share` is not between 0 and 1.
    """
    challengers = sum(arm.name != INCUMBENT for arm in experiment.arms)
    alpha = ErrorShares.of(experiment.alpha, challengers, len(experiment.metrics.guardrails)).primary
    found = needed_users(seen.population, effect, share, alpha)
    if found is None:
        return None
    users = len(seen.population.figures_U2)
    a_day = users_a_day or (users / seen.days if seen.days >= _WHOLE_DAY else 0.0)
    decisions = found.users * seen.decisions / users
    return {
        "effect": effect,
        "share": share,
        **asdict(found),
        "days": max(found.users / a_day, experiment.min_runtime_hours / 24) if a_day else None,
        "decisions": decisions,
        "cost": decisions * seen.cost_per_decision,
        "alpha": alpha,
        "covariates": experiment.covariates,
        "seen": {
            "users": users,
            "decisions": seen.decisions,
            "days": seen.days,
            "metric": experiment.metrics.primary,
            "value": seen.population.ratio,
            "unit": seen.unit,
        },
    }


def needed_users(population: Population, effect: float, share: float, alpha: float) -> Plan | None:
    """Return the smallest number of users with which 80 % of the simulated experiments find an effect.

    Returns None if more than `MOST_USERS` users are needed.

    Args:
        effect: Increase of the metric, as a fraction of the incumbent's metric.
        share: Fraction of the users who get the challenger.
        alpha: Error rate of the always-valid interval.

    Raises:
        ValueError: the log has too few users or no gain, or `effect` or `share` is not between 0 and 1.
    """
    for name, value in (("effect", effect), ("share", share)):
        if not 0.0 < value < 1.0:
            raise ValueError(messages.NOT_A_SHARE(name=name, value=value))
    users = len(population.figures_U2)
    if users < MIN_USERS or not population.ratio > 0.0:
        raise ValueError(messages.PLAN_NEEDS_USERS(users=users, value=population.ratio, needed=MIN_USERS))
    # An experiment with a single look needs `one_look` users. Always-valid intervals need about 1.5 times as many.
    one_look = (2.8 * population.deviation() / (effect * population.ratio)) ** 2 / (4.0 * share * (1.0 - share))
    most = max(2.0 * one_look, 20.0 * MIN_USERS / min(share, 1.0 - share))
    while most < 2 * MOST_USERS:
        looks_L = _looks(most)
        runs = int(np.clip(_DRAWS / most, *_RUNS))
        first = np.zeros(len(looks_L))
        for run in range(runs):
            rng = np.random.default_rng([0, run])
            found = estimate(_play(rng, population, effect, share, looks_L))
            low, _ = confidence_sequence(found.value, found.se, found.effective_users, alpha=alpha)
            better = low > 0.0  # NaN, with too few users, gives False
            first[int(better.argmax()) :] += bool(better.any())
            report(run + 1, runs)
        reached = first / runs >= POWER
        if reached.any():
            look = int(reached.argmax())
            return Plan(int(looks_L[look]), float(first[look] / runs), runs)
        most *= 3.0
    return None


def _looks(most: float) -> np.ndarray:
    """Return the numbers of users at which each simulated run is evaluated."""
    early, late = np.geomspace(MIN_USERS, most / 5.0, LOOKS // 5), np.linspace(most / 5.0, most, LOOKS)
    return np.unique(np.concatenate([early, late]).astype(np.int64))


def _play(rng: np.random.Generator, population: Population, effect: float, share: float, looks_L: np.ndarray) -> Sums:
    """Simulate one experiment, and return its sums over users at each look."""
    numerator_U, denominator_U = population.figures_U2.T
    at_looks = np.zeros((len(looks_L), 2, 8))
    starts = np.concatenate([[0], looks_L[:-1]])
    for first in range(0, len(looks_L), _LOOKS_AT_ONCE):
        chosen = slice(first, first + _LOOKS_AT_ONCE)
        begin, end = starts[chosen][0], looks_L[chosen][-1]
        drawn = rng.integers(len(numerator_U), size=end - begin)
        numerator, denominator = numerator_U[drawn], denominator_U[drawn]
        challengers = rng.random(end - begin) < share
        if population.counts:
            theirs = np.flatnonzero(challengers)
            numerator[theirs] += population.part_of(rng.integers(len(numerator_U), size=len(theirs)), effect, rng)
        else:
            numerator[challengers] *= 1.0 + effect
        everybody = np.ones_like(numerator)
        figures = [numerator, denominator]
        added = np.stack([everybody, numerator > 0, *figures, *(one * other for one in figures for other in figures)])
        for arm, there in enumerate((challengers, ~challengers)):
            at_looks[chosen, arm] = np.add.reduceat(added * there, starts[chosen] - begin, axis=1).T
    at_looks = at_looks.cumsum(0)
    products = np.zeros((len(looks_L), 2, 2, 2, 2))
    for arm in range(2):
        products[:, arm, :, arm, :] = at_looks[:, arm, 4:].reshape(-1, 2, 2)
    crossed = products.reshape(len(looks_L), 4, 4)
    return Sums(at_looks[:, :, 0, None], at_looks[:, :, 1, None], at_looks[:, :, None, 2:4], crossed)
