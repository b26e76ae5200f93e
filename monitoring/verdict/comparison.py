"""Compares one challenger with the incumbent: computes the lift of each metric from sums over users.

The arms are compared separately at each stage, because their shares of the users change between stages.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from monitoring.verdict.covariates import PREFIX
from monitoring.verdict.experiment_users import HAS_PAST, ONE, Users
from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.inference.statistics import Lift, compare
from mtorl.experiment.inference.sums import Floats, Sums
from mtorl.experiment.metrics import (
    COST,
    WEIGHT,
    Terms,
    column,
    is_gain,
    is_per_decision,
    late_column,
    metric,
    outcome_of,
)
from mtorl.log.gain import Gain

# Smallest duration of a stage in hours, in case it has only one decision.
_SHORTEST = 1 / 60


@dataclass(frozen=True)
class Comparison:
    """The comparison of one challenger with the incumbent.

    Attributes:
        budget_per_decision: Budget of each arm in a replay, in currency units per decision. None for live traffic.
        alpha: Error rate of the confidence intervals.
        covariates: Names of the covariates that make the lifts more precise.
        with_late: Whether late outcomes count too.
    """

    users: Users
    challenger: str
    gain: Gain
    budget_per_decision: float | None
    alpha: float
    covariates: tuple[str, ...] = ()
    with_late: bool = False

    @cached_property
    def _arms(self) -> tuple[int, int]:
        return self.users.arms.index(self.challenger), self.users.arms.index(INCUMBENT)

    @cached_property
    def _stages(self) -> list[int]:
        present = self.users.sums.users_C.reshape(len(self.users.stages), -1)[:, list(self._arms)].sum(1) > 0
        return [int(stage) for stage in np.flatnonzero(present)] or [0]

    def _totals(self, column: str) -> Floats:
        """Return a column's sums for both arms and each stage, in the shape (A = 2, S)."""
        totals = self.users.sums.totals_CB[:, self._indices(column)].sum(1).reshape(len(self.users.stages), -1)
        return totals[self._stages][:, list(self._arms)].T

    def _indices(self, column: str) -> list[int]:
        index_of, kind = self.users.sums.index_of, outcome_of(column)
        return [index_of(column), *([index_of(late_column(kind))] if self.with_late and kind else [])]

    def adjustment(self, primary: str) -> dict[str, Any] | None:
        """Return the lift without covariates, and how much covariates reduce its variance; None without covariates."""
        if not self.covariates:
            return None
        adjusted, without = self.lift(primary), replace(self, covariates=()).lift(primary)
        return {
            "covariates": list(self.covariates),
            "users_share": float(self._totals(HAS_PAST).sum() / max(self._totals(ONE).sum(), 1.0)),
            "variance_ratio": (adjusted.se / without.se) ** 2 if without.se > 0 else math.nan,
            "unadjusted_lift": without.value,
            "unadjusted_lift_ci": without.ci,
        }

    def unbalanced(self, alpha: float) -> str | None:
        """Return the name of a covariate whose mean differs significantly between the arms; None if there is none.

        Users are assigned at random, so such a difference shows an error in the experiment.
        """
        ratios = [(HAS_PAST, ONE), *((PREFIX + name, HAS_PAST) for name in self.covariates)] if self.covariates else []
        for numerator, denominator in ratios:
            sums = self._sums(numerator, ((numerator, 1.0),), ((denominator, 1.0),))
            lift = compare(sums, alpha=alpha / len(ratios))
            if lift.ci[0] > 0.0 or lift.ci[1] < 0.0:
                return numerator.removeprefix(PREFIX)
        return None

    def hours(self, of_stages: Mapping[str, float]) -> float:
        """Return the effective duration of all stages together, in hours.

        With each stage's weight w in the lift and its duration h, this is (sum w)^2 / sum(w^2 / h), like Kish's
        effective sample size.
        """
        ours, theirs = self._totals(WEIGHT)
        hours = np.array([of_stages.get(self.users.stages[stage], 0.0) for stage in self._stages]).clip(_SHORTEST)
        both = (ours > 0) & (theirs > 0)
        weight = (ours * theirs)[both] / (ours + theirs)[both]
        return float(weight.sum() ** 2 / (weight**2 / hours[both]).sum()) if len(weight) else 0.0

    def lift(self, name: str, above: float = 0.0) -> Lift:
        """Compute the challenger's value of a metric minus (1 + `above`) times the incumbent's value."""
        found = metric(name, self.gain)
        sums = self._sums(name, found.numerator, self._denominators(name), self._explained, above)
        sizes = None if is_per_decision(name) else self._totals(WEIGHT)
        return compare(sums, alpha=self.alpha, largest=found.largest, sizes=sizes)

    def lift_per_cost(self, primary: str) -> Lift:
        """Compute the lift of the gain per currency unit spent."""
        cost = metric(COST, self.gain).numerator
        sums = self._sums(primary, metric(primary, self.gain).numerator, cost, self._explained)
        return compare(sums, alpha=self.alpha, sizes=self._totals(WEIGHT))

    def late_gap(self, kinds: set[str]) -> float:
        """Return the largest difference between the arms in the share of late outcomes; 0 if none is significant.

        The arms are compared within each stage, because missing reports of one day delay the outcomes of both arms.
        """
        gaps = [0.0]
        for kind in kinds:
            late = ((late_column(kind), 1.0),)
            sums = self._sums(COST, late, (*late, (column(kind), 1.0)))
            ours, theirs = sums.totals[:, :, 1]
            both = (ours > 0) & (theirs > 0)
            if not both.any():
                continue
            weight = (ours * theirs)[both] / (ours + theirs)[both]
            pooled = sums.totals[..., 0].sum(0)[both] / (ours + theirs)[both]
            share_of_late = sums.totals[:, both, 0] / sums.totals[:, both, 1]
            gap = abs((weight * (share_of_late[0] - share_of_late[1])).sum() / weight.sum())
            within = sums.within()[:, both]
            squares = within[..., 0, 0] - 2 * pooled * within[..., 0, 1] + pooled**2 * within[..., 1, 1]
            variance = weight**2 * (squares / sums.totals[:, both, 1] ** 2).sum(0)
            if gap > 3.0 * math.sqrt(max(variance.sum(), 0.0)) / weight.sum():
                gaps.append(gap)
        return float(max(gaps))

    def _denominators(self, name: str) -> Terms | dict[tuple[int, int], Terms]:
        """Return the denominator of a metric, usually the number of decisions.

        In a replay, an arm may spend more than its budget. The denominator is then larger, so that only gain within the
        budget counts.
        """
        usual, budget = metric(name, self.gain).denominator, self.budget_per_decision
        if budget is None or not (is_gain(name) and is_per_decision(name)):
            return usual
        (cost,), decisions = metric(COST, self.gain).numerator, self._totals(WEIGHT)
        spends_more = self._totals(cost[0]) > budget * decisions
        return {
            place: ((cost[0], 1.0 / budget),) if spends_more[place] else usual for place in np.ndindex(decisions.shape)
        }

    @cached_property
    def _explained(self) -> tuple[Terms, ...]:
        """Return the regressors of the lift: a constant, the covariates, and an indicator of users without a past."""
        if not self.covariates:
            return ()
        all_have_past = self._totals(HAS_PAST).sum() == self._totals(ONE).sum()
        marks = () if all_have_past else (((ONE, 1.0), (HAS_PAST, -1.0)),)
        return ((ONE, 1.0),), *(((PREFIX + name, 1.0),) for name in self.covariates), *marks

    def _sums(
        self,
        positive: str,
        numerator: Terms,
        denominator: Terms | dict[tuple[int, int], Terms],
        others: tuple[Terms, ...] = (),
        above: float = 0.0,
    ) -> Sums:
        """Compute the sums of both arms for one metric. The incumbent's numerator is multiplied by 1 + `above`."""
        sums = self.users.sums
        maps = np.zeros((2, len(self._stages), 2 + len(others), len(sums.columns)))
        for arm, stage in np.ndindex(maps.shape[:2]):
            below = denominator[arm, stage] if isinstance(denominator, dict) else denominator
            for place, terms in enumerate((numerator, below, *others)):
                for name, weight in terms:
                    maps[arm, stage, place, self._indices(name)] += weight
        maps[1, :, 0] *= 1.0 + above
        return sums.of(self._arms, self._stages, maps, positive)


def ratio_of(users: Users, arm: str, name: str, gain: Gain, budget: float | None) -> float:
    """Return the value of a metric for one arm; NaN if the arm has no decision."""
    found = metric(name, gain)
    numerator, denominator = (users.of(arm, terms, weighted=True) for terms in (found.numerator, found.denominator))
    if budget is not None and is_gain(name) and is_per_decision(name):
        cost = users.of(arm, metric(COST, gain).numerator, weighted=True)
        denominator = max(denominator, cost / budget)
    return numerator / denominator if denominator > 0 else math.nan
