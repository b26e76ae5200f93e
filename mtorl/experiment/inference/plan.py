"""Plans the number of users of an experiment before it starts, by simulating it with users of the log.

    found = needed_users(Population(figures), effect=0.05, share=0.5, alpha=0.05)
    found.users, found.power

Each run draws users with replacement from the log, gives the challenger's more, or larger, outcomes by the planned
effect, and looks as often as people may, with the functions of the verdict (`statistics.py`). So the width of
always-valid intervals, the fewest users with a positive outcome and users who decide far oftener are part of it. The
answer is the first number of users by which the wanted share of the runs has found the challenger better.

**Covariates.** As a verdict does, the runs adjust by covariates, with the same regression, but with one in place of
all: their forecast of a user, with slopes learnt from other users (`adjustment.cross_fitted`). With all of them, each
run would learn once more what is chance in the log.

Shapes: U users of the log; A = 2 arms, challenger first; L looks; 2 = numerator, denominator; K covariates; F figures.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mtorl.experiment.inference.adjustment import cross_fitted, standardised
from mtorl.experiment.inference.statistics import MIN_USERS, confidence_sequence, estimate
from mtorl.experiment.inference.sums import Floats, Sums
from mtorl.runtime.progress import report

POWER = 0.8
LOOKS = 300
MOST_USERS = 5_000_000  # more than that nobody waits for; the effect is too small to be found
_DRAWS = 300_000_000  # users of all runs together: what a minute or so draws
_RUNS = (400, 2_000)  # as few as tell 80 % from 75 %; as many as tell it from 78 %
_LOOKS_AT_ONCE = 40  # whose users are in memory
_NEIGHBOURS = 100  # one in so many users, on either side, has about the same forecast


@dataclass(frozen=True)
class Population:
    """Users of the log."""

    figures_U2: Floats  # numerator and denominator of the primary metric
    # Whether outcomes are counted, as clicks are: a better policy then has more of them. Otherwise, as of revenues, it
    # has larger ones, which takes many more users to find where few users have any.
    counts: bool = True
    known_UK: Floats | None = None  # covariates, NaN where unknown

    @property
    def ratio(self) -> float:
        """The metric; 0 without any user."""
        numerator, denominator = self.figures_U2.sum(0)
        return float(numerator / denominator) if denominator > 0 else 0.0

    @cached_property
    def forecast_U(self) -> Floats | None:
        """Forecast of each user's metric by its covariates; None without covariates."""
        if self.known_UK is None or not self.known_UK.shape[1]:
            return None
        return cross_fitted(self.figures_U2, standardised(self.known_UK))

    @property
    def explained(self) -> float:
        """Share of the variance that users add to the lift which covariates explain."""
        if self.forecast_U is None:
            return 0.0
        before, after = float(self._residual_U.var()), float((self._residual_U - self.forecast_U).var())
        return max(0.0, 1.0 - after / before) if before > 0 else 0.0

    @cached_property
    def _order_U(self) -> npt.NDArray[np.intp]:
        """The users by their forecast."""
        assert self.forecast_U is not None
        return np.argsort(self.forecast_U, kind="stable")

    @cached_property
    def _rank_U(self) -> npt.NDArray[np.intp]:
        rank = np.empty_like(self._order_U)
        rank[self._order_U] = np.arange(len(rank))
        return rank

    def others_like(self, chosen_N: npt.NDArray[np.intp], rng: np.random.Generator) -> npt.NDArray[np.intp]:
        """For each of some users another one, drawn from those with about the same forecast, or from all."""
        users, number = len(self.figures_U2), len(chosen_N)
        if self.forecast_U is None:
            return rng.integers(users, size=number)
        near = max(1, users // _NEIGHBOURS)
        place = self._rank_U[chosen_N] + rng.integers(-near, near + 1, size=number)
        place = np.abs(place)  # reflected at either end
        found: npt.NDArray[np.intp] = self._order_U[np.minimum(place, 2 * (users - 1) - place)]
        return found

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

    @property
    def _residual_U(self) -> Floats:
        numerator, denominator = self.figures_U2.T
        found: Floats = (numerator - self.ratio * denominator) / denominator.mean()
        return found

    def deviation(self) -> float:
        """Standard deviation of a user's contribution to the difference of two even arms."""
        return 2.0 * float(self._residual_U.std()) * math.sqrt(1.0 - self.explained)


@dataclass(frozen=True)
class Plan:
    """Size of a planned experiment."""

    users: int  # of all arms together
    power: float  # share of the runs that found the challenger better by then
    runs: int


def needed_users(population: Population, effect: float, share: float, alpha: float) -> Plan | None:
    """The fewest users with which an effect is found with a wanted probability; None: more than `MOST_USERS`.

    Args:
        effect: By how much the challenger's metric is larger, as a share of the incumbent's.
        share: Of the users who get the challenger.

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

    Where the challenger's outcomes are more, each of its users adds a part of the outcomes of another user with about
    the same forecast: so there is more where there is much.
    """
    numerator_U, denominator_U = population.figures_U2.T
    forecast_U = population.forecast_U
    size = 2 if forecast_U is None else 4
    at_looks = np.zeros((len(looks_L), 2, 2 + size + size**2))
    starts = np.concatenate([[0], looks_L[:-1]])
    for first in range(0, len(looks_L), _LOOKS_AT_ONCE):
        chosen = slice(first, first + _LOOKS_AT_ONCE)
        begin, end = starts[chosen][0], looks_L[chosen][-1]
        drawn = rng.integers(len(numerator_U), size=end - begin)
        numerator, denominator = numerator_U[drawn], denominator_U[drawn]
        challengers = rng.random(end - begin) < share
        if population.counts:
            theirs = np.flatnonzero(challengers)
            numerator[theirs] += population.part_of(population.others_like(drawn[theirs], rng), effect, rng)
        else:
            numerator[challengers] *= 1.0 + effect
        everybody = np.ones_like(numerator)
        figures = [numerator, denominator, *([] if forecast_U is None else [everybody, forecast_U[drawn]])]
        added = np.stack([everybody, numerator > 0, *figures, *(one * other for one in figures for other in figures)])
        for arm, there in enumerate((challengers, ~challengers)):
            at_looks[chosen, arm] = np.add.reduceat(added * there, starts[chosen] - begin, axis=1).T
    at_looks = at_looks.cumsum(0)
    products = np.zeros((len(looks_L), 2, size, 2, size))
    for arm in range(2):
        products[:, arm, :, arm, :] = at_looks[:, arm, 2 + size :].reshape(-1, size, size)
    return Sums(
        at_looks[:, :, 0, None],
        at_looks[:, :, 1, None],
        at_looks[:, :, None, 2 : 2 + size],
        products.reshape(len(looks_L), 2 * size, 2 * size),
    )
