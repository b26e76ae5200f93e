"""Simulates A/A experiments in which users return: in several stages of a ramp, or in several hours of one stage."""

from collections.abc import Iterator

import numpy as np

from benchmarks.experiment_runs.markets import Clicks, Revenue
from mtorl.experiment.inference.adjustment import figures_with, standardised
from mtorl.experiment.inference.sums import Floats, Sums

RAMP = (0.01, 0.05, 0.25, 0.5)
# Probability that a user visits during a stage.
_COMES = 0.6
# Share of all users who come in one hour.
_HOURLY = 0.1
_FIELDS = ("users", "positive", "totals", "products")
# Visits before the experiment, for the covariates.
VISITS_BEFORE = 20
# Share of users without visits before the experiment.
NEW = 0.2
# Standard deviation of log(forecast / true rate of the user).
_NOISE = 0.3


def covariates(market: Clicks | Revenue, rng: np.random.Generator, rates: Floats) -> Floats:
    """Return standardised covariates of each user (U, K): gain, number of decisions, and a forecast.

    New users have no values.
    """
    if isinstance(market, Clicks):
        decisions = VISITS_BEFORE + rng.poisson(2 * VISITS_BEFORE, len(rates))
        gain = rng.binomial(decisions, rates).astype(np.float64)
    else:
        decisions = np.full(len(rates), VISITS_BEFORE)
        gain = rng.binomial(decisions, rates) * market.visit(rng, np.ones(len(rates)))[:, 0]
    found = np.stack([gain, decisions, rates * rng.lognormal(0.0, _NOISE, len(rates))], -1)
    found[rng.random(len(rates)) < NEW] = np.nan
    return standardised(found)


def ramps(
    market: Clicks | Revenue, users: int, looks: int, count: int, rng: np.random.Generator, adjusted: bool = False
) -> Iterator[Sums]:
    """Simulate `count` experiments with a ramp, and yield the sums over users at every look.

    Each stage has `looks` looks. With `adjusted`, the sums contain covariates.
    """
    for _ in range(count):
        # The challenger keeps its users when its share grows, because each user has a fixed random number.
        point = rng.random(users)
        rates = market.rates(rng, users)
        known = covariates(market, rng, rates) if adjusted else np.zeros((users, 0))
        growing = _Growing(users, len(RAMP), known)
        for stage, share in enumerate(RAMP):
            coming = rng.permutation(users)[: rng.binomial(users, _COMES)]
            for group in np.array_split(coming, looks):
                growing.add(group, (point[group] >= share).astype(np.intp), stage, market.visit(rng, rates[group]))
        yield growing.sums()


def hours(
    market: Clicks | Revenue, share: float, users: int, looks: int, count: int, rng: np.random.Generator
) -> Iterator[Sums]:
    """Simulate `count` experiments of one stage, and yield the sums over users at every look.

    A random tenth of the users visits each hour, followed by a look.
    """
    for _ in range(count):
        arm = (rng.random(users) >= share).astype(np.intp)
        rates, growing = market.rates(rng, users), _Growing(users, 1, np.zeros((users, 0)))
        for _ in range(looks):
            group = rng.choice(users, int(_HOURLY * users), replace=False, shuffle=False)
            growing.add(group, arm[group], 0, market.visit(rng, rates[group]))
        yield growing.sums()


class _Growing:
    """The sums over the users of one experiment, which grow with each visit."""

    def __init__(self, users: int, stages: int, covariates: Floats) -> None:
        self._row = figures_with(np.zeros((users, 2)), covariates)
        self._values = np.zeros((users, 2, stages, self._row.shape[1]))
        self._present = np.zeros((users, 2, stages), dtype=bool)
        self._now = self._of(np.arange(0))
        self._looks: list[list[Floats]] = []

    def _of(self, group: np.ndarray) -> list[Floats]:
        sums = Sums.of_users(self._values[group], self._present[group])
        return [getattr(sums, field) for field in _FIELDS]

    def add(self, group: np.ndarray, arm: np.ndarray, stage: int, figures: Floats) -> None:
        """Add one visit of each user in a group, and record a look."""
        before = self._of(group)
        self._values[group, arm, stage, :2] += figures
        self._values[group, arm, stage, 2:] = self._row[group, 2:]
        self._present[group, arm, stage] = True
        self._now = [now + new - old for now, new, old in zip(self._now, self._of(group), before, strict=True)]
        self._looks.append(self._now)

    def sums(self) -> Sums:
        """Return the sums at each look, (L, ...)."""
        return Sums(*(np.stack(field) for field in zip(*self._looks, strict=True)))
