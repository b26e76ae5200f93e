"""Plans the number of users of an experiment before it starts, by simulating it with users of the log.

    requirements(seen, experiment, effect=0.05)         # users, days and money, of the incumbent's users so far
    found = needed_users(Population(figures), effect=0.05, share=0.5, alpha=0.05)
    found.users, found.power

Each run draws users with replacement from the log, gives the challenger's more, or larger, outcomes by the planned
effect, and looks as often as people may, with the functions of the verdict (`statistics.py`). So the width of
always-valid intervals, the fewest users with a positive outcome and users who decide far oftener are part of it. The
answer is the first number of users by which the wanted share of the runs has found the challenger better. Covariates
are no part of it: an experiment with them needs fewer users.

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
MOST_USERS = 5_000_000  # more than that nobody waits for; the effect is too small to be found
_DRAWS = 300_000_000  # users of all runs together: what a minute or so draws
_RUNS = (400, 2_000)  # as few as tell 80 % from 75 %; as many as tell it from 78 %
_LOOKS_AT_ONCE = 40  # whose users are in memory
_WHOLE_DAY = 0.9  # of a day, from its first decision to its last: a log of less does not say how many users come on one


@dataclass(frozen=True)
class Population:
    """Users of the log."""

    figures_U2: Floats  # numerator and denominator of the primary metric
    # Whether outcomes are counted, as clicks are: a better policy then has more of them. Otherwise, as of revenues, it
    # has larger ones, which takes many more users to find where few users have any.
    counts: bool = True

    @property
    def ratio(self) -> float:
        """The metric; 0 without any user."""
        numerator, denominator = self.figures_U2.sum(0)
        return float(numerator / denominator) if denominator > 0 else 0.0

    def part_of(self, chosen_N: npt.NDArray[np.intp], share: float, rng: np.random.Generator) -> Floats:
        """A share of some users' outcomes: of each outcome by chance or, with weights, of all."""
        numerator_N = self.figures_U2[chosen_N, 0]
        part_N: Floats = (
            rng.binomial(numerator_N.astype(np.int64), share).astype(np.float64)
            if self._whole
            else np.where(rng.random(len(chosen_N)) < share, numerator_N, 0.0)
        )
        return part_N

    @cached_property
    def _whole(self) -> bool:
        """Whether outcomes are counted one by one, without weights."""
        numerator_U = self.figures_U2[:, 0]
        return bool(np.all((numerator_U >= 0) & (numerator_U == np.floor(numerator_U))))

    def deviation(self) -> float:
        """Standard deviation of a user's contribution to the difference of two even arms."""
        numerator_U, denominator_U = self.figures_U2.T
        return 2.0 * float((numerator_U - self.ratio * denominator_U).std() / denominator_U.mean())


@dataclass(frozen=True)
class Plan:
    """Size of a planned experiment."""

    users: int  # of all arms together
    power: float  # share of the runs that found the challenger better by then
    runs: int


class IncumbentUsers(NamedTuple):
    """The incumbent's users, and their decisions, in the time of the log."""

    population: Population
    decisions: int
    cost_per_decision: float
    days: float
    unit: str  # of the primary metric


def requirements(
    seen: IncumbentUsers, experiment: Experiment, effect: float, share: float = 0.5, users_a_day: float = 0.0
) -> dict[str, Any] | None:
    """Requirements for finding an effect, for people and JSON; None and ValueError as of `needed_users`.

    Args:
        users_a_day: 0: as many new users as were seen, in a day at least.

    Returns:
        Users of all arms, days (None: unknown), decisions, cost (currency units), power and runs of the played
        experiments, and what was `seen`.
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
    """The fewest users with which an effect is found with a wanted probability; None: more than `MOST_USERS`.

    Args:
        effect: By how much the challenger's metric is larger, as a share of the incumbent's.
        share: Of the users who get the challenger.

    Raises:
        ValueError: the log says too little, or an argument makes no sense.
    """
    for name, value in (("effect", effect), ("share", share)):
        if not 0.0 < value < 1.0:
            raise ValueError(messages.NOT_A_SHARE(name=name, value=value))
    users = len(population.figures_U2)
    if users < MIN_USERS or not population.ratio > 0.0:
        raise ValueError(messages.PLAN_NEEDS_USERS(users=users, value=population.ratio, needed=MIN_USERS))
    # One look at the end would need that many effective users; looking at any time at least some 1.5 times as many.
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
            better = low > 0.0  # NaN, where nothing is known yet, is not
            first[int(better.argmax()) :] += bool(better.any())
            report(run + 1, runs)
        reached = first / runs >= POWER
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
    """Sums of the users of one experiment at each look.

    Where the challenger's outcomes are more, each of its users adds a part of the outcomes of another user.
    """
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
