"""One challenger with the incumbent: the lift of each metric, from the users' sums.

comparison = Comparison(users, "challenger", stages, gain, None, alpha)
comparison.lift("click_per_decision")
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from monitoring.verdict.known_users import PREFIX
from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.inference.adjustment import figures_with, standardised
from mtorl.experiment.inference.statistics import Lift, compare
from mtorl.experiment.inference.sums import Floats, Sums
from mtorl.experiment.metrics import COST, is_gain, is_per_decision, metric
from mtorl.log.gain import Gain

_DECISIONS = f"{COST}_denominator"
_SHORTEST = 1 / 60  # hours of a stage with a single decision


class _Rows(NamedTuple):
    """Rows of the users of both arms: their places among all, and codes of user, arm and stage, (R,)."""

    place: npt.NDArray[np.intp]
    user: npt.NDArray[np.int64]
    arm: npt.NDArray[np.int8]
    stage: npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Comparison:
    """One challenger with the incumbent.

    Users are in the order of their arrival, and each user's rows follow each other (`experiment_users.py`).
    """

    users: pd.DataFrame
    challenger: str
    stages: list[str]
    gain: Gain
    budget_per_decision: float | None
    alpha: float
    covariates: tuple[str, ...] = ()  # columns of the users by which all lifts are adjusted

    @cached_property
    def _rows(self) -> _Rows:
        place = np.flatnonzero(self.users["arm"].isin((self.challenger, INCUMBENT)))
        users = self.users[["unit", "arm", "stage"]].iloc[place]
        return _Rows(
            place,
            pd.factorize(users["unit"])[0],
            np.asarray(users["arm"] == INCUMBENT, dtype=np.int8),
            users["stage"].cat.set_categories(self.stages).cat.codes.to_numpy(),
        )

    @property
    def seen(self) -> int:
        """Users of both arms; who moved from one to the other is one."""
        return int(self._rows.user.max(initial=-1)) + 1

    @cached_property
    def _told(self) -> Floats:
        """Covariates of the rows, NaN if unknown, (R, columns)."""
        return self.users[list(self.covariates)].iloc[self._rows.place].to_numpy(np.float64)

    @cached_property
    def _known(self) -> Floats:
        """Standardised covariates, (R, K)."""
        return standardised(self._told)

    def adjustment(self, primary: str) -> dict[str, Any] | None:
        """Effect of the covariates on the lift, JSON-ready; None: there are none."""
        if not self.covariates:
            return None
        user, known = self._rows.user, np.isfinite(self._told).any(1)
        adjusted, without = self.lift(primary), replace(self, covariates=()).lift(primary)
        return {
            "covariates": [name.removeprefix(PREFIX) for name in self.covariates],
            "users_share": len(np.unique(user[known])) / max(len(np.unique(user)), 1),
            "variance_ratio": (adjusted.se / without.se) ** 2 if without.se > 0 else math.nan,
            "unadjusted_lift": without.value,
            "unadjusted_lift_ci": without.ci,
        }

    def unbalanced(self, alpha: float) -> str | None:
        """A covariate by which the arms' users differ more than the draw explains, at any look."""
        for column, values in zip(self.covariates, self._told.T, strict=True):
            there = np.isfinite(values).astype(np.float64)
            value = standardised(values[:, None])[:, 0]
            for figures in ((value, there), (there, np.ones_like(there))):
                lift = compare(
                    self._sums(np.stack(figures, -1)),
                    alpha=alpha / (2 * len(self.covariates)),
                )
                if lift.ci[0] > 0.0 or lift.ci[1] < 0.0:
                    return column.removeprefix(PREFIX)
        return None

    def hours(self, of_stages: Mapping[str, float]) -> float:
        """Run time of what the lift rests on: hours of a stage count as far as its decisions do.

        With the weight w of a stage in the lift and its hours h, (sum w)^2 / sum(w^2 / h), as Kish counts rows of
        unequal weight: all hours if each hour weighs alike, and hardly more than a day if a day at a large stage
        outweighs the weeks before it.
        """
        sizes = self.users.groupby(["arm", "stage"], observed=True)[_DECISIONS].sum()
        if not {self.challenger, INCUMBENT} <= set(sizes.index.get_level_values("arm")):
            return 0.0
        ours, theirs = sizes[self.challenger], sizes[INCUMBENT]
        weight = ours * theirs / (ours + theirs)
        weight = weight[weight > 0]  # of stages that both have decisions in
        hours = pd.Series(of_stages, dtype=float).reindex(weight.index).clip(lower=_SHORTEST)
        return float(weight.sum() ** 2 / (weight**2 / hours).sum()) if len(weight) else 0.0

    def lift(self, name: str, above: float = 0.0) -> Lift:
        """The lift of a metric.

        Args:
            above: Raises the incumbent's metric by this share: the lift is what exceeds that.
        """
        figures = self._figures(name)
        figures[self._rows.arm == 1, 0] *= 1.0 + above
        return self._compare(name, self._sums(figures))

    def lift_per_cost(self, primary: str) -> Lift:
        """The lift of what the primary metric sums, per currency unit."""
        columns = self.users[[f"{primary}_numerator", f"{COST}_numerator"]].iloc[self._rows.place]
        sums = self._sums(figures_with(columns.to_numpy(np.float64), self._known))
        return compare(sums, alpha=self.alpha, sizes=self._decisions(sums.users.shape[-1]))

    def lifts(self, name: str, users: npt.NDArray[np.int64]) -> list[Lift]:
        """The lift of the first users alone (numbers of `seen`, ascending), with all that they did at any stage."""
        if not len(users):
            return []
        ends = np.searchsorted(self._rows.user, users)
        if self.budget_per_decision is not None:  # who is thinned depends on all that were seen
            return [self._compare(name, self._sums(self._figures(name, end)), end) for end in ends]
        sums = self._sums(self._figures(name), ends)
        return [self._compare(name, sums.at(look), end) for look, end in enumerate(ends)]

    def _compare(self, name: str, sums: Sums, end: int | None = None) -> Lift:
        sizes = None if is_per_decision(name) else self._decisions(sums.users.shape[-1], end)
        largest = metric(name, self.gain).largest
        return compare(sums, alpha=self.alpha, largest=largest, sizes=sizes)

    def _decisions(self, stages: int, end: int | None = None) -> Floats:
        """Decisions of the first rows, or of all, by arm and stage, (A, S)."""
        place, _, arm, stage = (codes[:end] for codes in self._rows)
        decisions = self.users[_DECISIONS].to_numpy(np.float64)[place]
        found = np.bincount(arm * stages + stage, decisions, 2 * stages)
        return found.astype(np.float64).reshape(2, stages)

    def _sums(self, figures: Floats, looks: npt.NDArray[np.intp] | None = None) -> Sums:
        end = len(figures)
        _, user, arm, stage = self._rows
        return Sums.of_rows(user[:end], arm[:end], stage[:end], figures, looks)

    def _figures(self, name: str, end: int | None = None) -> Floats:
        """Figures of the rows of both arms, or of the first of them, (R, F)."""
        place, _, arm, stage = (codes[:end] for codes in self._rows)
        names = (name,) if self.budget_per_decision is None else dict.fromkeys((name, COST))
        read = [f"{metric}_{part}" for metric in names for part in ("numerator", "denominator")]
        users = self.users[read].iloc[place]
        figures = np.zeros((len(users), 2))
        if self.budget_per_decision is None:
            figures[:] = users.to_numpy(np.float64)
        else:
            for cell in product(range(2), range(len(self.stages))):
                chosen = (arm == cell[0]) & (stage == cell[1])
                figures[chosen] = figures_of(users[chosen], name, self.budget_per_decision)
        return figures_with(figures, self._known[:end])


def figures_of(users: pd.DataFrame, name: str, budget: float | None) -> Floats:
    """A metric's numerator and denominator of each user of one arm and stage, (U, 2).

    Gain over a budget is gain per currency unit times the budget, min(1, b / W) * G: the gain of as many decisions as
    the budget pays for.
    """
    numerator, denominator = (users[f"{name}_{part}"].to_numpy(np.float64) for part in ("numerator", "denominator"))
    if budget is not None and is_gain(name) and is_per_decision(name):
        cost, decisions = (users[f"cost_per_decision_{part}"] for part in ("numerator", "denominator"))
        if cost.sum() > budget * decisions.sum():
            denominator = cost.to_numpy(np.float64) / budget
    return np.stack([numerator, denominator], axis=-1)
