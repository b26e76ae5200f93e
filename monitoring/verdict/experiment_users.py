"""Adds up the decisions and outcomes of each user of an experiment, for every metric, stage and arm.

The users are processed in parts, so that memory does not grow with the log.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from monitoring.decision_log import DecisionLog
from monitoring.verdict.counted_decisions import CountedDecisions, shares_of_stages
from monitoring.verdict.covariates import PREFIX, covariate_names
from monitoring.verdict.hourly_sums import user_columns
from monitoring.verdict.stored_sums import counted_users
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.inference.heavy_users import user_weights
from mtorl.experiment.inference.statistics import MIN_USERS
from mtorl.experiment.inference.sums import Floats, UserSums
from mtorl.experiment.metrics import COST, DECISIONS, Terms, metric, outcomes_of
from mtorl.log.gain import Gain
from mtorl.runtime.sql import sql_name, sql_text

if TYPE_CHECKING:
    import duckdb


# A user with this share of an arm's decisions is reported, because the user may be a bot or a shared id.
REPORTED_SHARE = 0.05
# Column that is 1 for every user.
ONE = "one"
# Column that is 1 for users with a past, otherwise 0.
HAS_PAST = "has_past"
_ROWS_AT_ONCE = 500_000


@dataclass
class Users:
    """Sums over the users of an experiment, without users who got several arms at the same stage.

    Attributes:
        sums: Sums for the comparison. Users with very many decisions have a weight below 1, except in covariates.
        totals_CB: The same sums without weights, by cell (stage and arm) and column.
        typical: Median number of decisions per user, by stage.
        of_arms: Number of users by the set of their arms, where bit i stands for arm i.
        capped: Number of users with a weight below 1, by arm.
        busiest: Arm and number of decisions of each user who may have `REPORTED_SHARE` of the arm's decisions.
        crossed: Number of users who got several arms at the same stage.
        all_users: Number of all users, including `crossed`.
        late: Number of outcomes that arrived too late to count.
    """

    stages: list[str]
    arms: list[str]
    sums: UserSums
    totals_CB: Floats
    typical: Floats
    of_arms: Counter[int] = field(default_factory=Counter)
    capped: Counter[str] = field(default_factory=Counter)
    busiest: list[tuple[str, float]] = field(default_factory=list)
    crossed: int = 0
    all_users: int = 0
    late: int = 0

    def count(self, *arms: str) -> int:
        """Count the users of the given arms, each user once."""
        wanted = sum(1 << self.arms.index(arm) for arm in arms)
        return sum(users for bits, users in self.of_arms.items() if bits & wanted)

    @property
    def moved(self) -> int:
        """Count the users who got different arms at different stages."""
        return sum(users for bits, users in self.of_arms.items() if bits.bit_count() > 1)

    @property
    def heavy(self) -> list[tuple[str, float]]:
        """List the users with at least `REPORTED_SHARE` of an arm's decisions, as arm and share, the largest first."""
        shares = [(arm, own / self.of(arm, ((DECISIONS, 1.0),))) for arm, own in self.busiest]
        return sorted([each for each in shares if each[1] >= REPORTED_SHARE], key=itemgetter(1), reverse=True)

    def of(self, arm: str, terms: Terms, weighted: bool = False) -> float:
        """Return an arm's total over all stages. `terms` has columns with factors."""
        cells = self.sums.cells(self.arms.index(arm))
        totals = (self.sums.totals_CB if weighted else self.totals_CB)[cells].sum(0)
        return float(sum(weight * totals[self.sums.index_of(name)] for name, weight in terms))

    def by_stage(self, arm: str) -> npt.NDArray[np.int64]:
        """Return the number of an arm's users at each stage, in the shape (S,)."""
        return self.sums.users_C[self.sums.cells(self.arms.index(arm))].astype(np.int64)

    def add(self, values: Mapping[str, Any]) -> None:
        """Add the figures of some users, with one row for each user, stage and arm.

        One call must have all rows of a user, because a user with several arms is recognised only within a call.
        """
        self.late += int(values["late"].sum())
        order = np.lexsort((values["stage"], values["unit"]))
        unit, stage = (values[name][order] for name in ("unit", "stage"))
        # True at the first row of each user and stage, and after the last row.
        begins = np.append(_first(unit, stage), True)
        alone = begins[:-1] & begins[1:]
        self.all_users += int(_first(unit).sum())
        self.crossed += int(_first(unit[~alone]).sum())
        order = order[alone]
        if not len(order):
            return
        unit, stage, arm = (values[name][order] for name in ("unit", "stage", "arm"))
        cell = stage.astype(np.intp) * len(self.arms) + arm
        figures = np.empty((len(self.sums.columns), len(order)))
        for row, name in zip(figures, self.sums.columns, strict=True):
            row[:] = values[name][order]
        for total, column in zip(self.totals_CB.T, figures, strict=True):
            total += np.bincount(cell, column, len(total))
        own = figures[self.sums.index_of(DECISIONS)].copy()
        weight = user_weights(own, self.typical[stage])
        heavy = np.flatnonzero(weight < 1.0)
        figures[: self.sums.columns.index(ONE), heavy] *= weight[heavy]
        for number, name in enumerate(self.arms):
            of_arm = heavy[arm[heavy] == number]
            busy, place = np.unique(unit[of_arm], return_inverse=True)
            self.capped[name] += len(busy)
            decisions = np.bincount(place, own[of_arm], len(busy))
            most = decisions[decisions >= REPORTED_SHARE * self.of(name, ((DECISIONS, 1.0),))]
            self.busiest += [(name, float(own)) for own in most]
        users = np.bincount(np.bitwise_or.reduceat(1 << arm.astype(np.intp), np.flatnonzero(_first(unit))))
        self.of_arms.update({int(bits): int(users[bits]) for bits in np.flatnonzero(users)})
        self.sums.add(unit, cell, figures)


@dataclass(frozen=True)
class ExperimentUsers:
    """The decisions of an experiment that count, for use in the block of `experiment_users`."""

    counted: CountedDecisions
    covariates: tuple[str, ...]
    db: duckdb.DuckDBPyConnection
    _stages: list[str]
    _arms: list[str]
    _columns: tuple[str, ...]
    # Maps a column that is not computed to the column that has equal values.
    _same: Mapping[str, str]
    _numerators: Mapping[str, Terms]

    def users(self, changed: bool = False, segment: str = "true") -> Users:
        """Add up the decisions that count, for each user.

        Args:
            changed: Whether to include the decisions that were left out for the reasons in `CHANGED`.
            segment: SQL condition that selects decisions.
        """
        rows = self._select(changed, segment)
        covariates = [PREFIX + name for name in self.covariates]
        names = (*self._columns, ONE, *((*covariates, HAS_PAST) if covariates else ()))
        numerators = {**self._numerators, **{name: ((name, 1.0),) for name in names[len(self._columns) :]}}
        sums, parts = UserSums(names, len(self._stages), len(self._arms), numerators, self._same), self._parts()
        typical = self._typical_decisions(rows, parts)
        found = Users(self._stages, self._arms, sums, np.zeros_like(sums.totals_CB), typical)
        added = ", ".join(f"coalesce(sum({of}), 0)::DOUBLE AS {of}" for of in map(sql_name, (*self._columns, "late")))
        of_user = "".join(f", coalesce({name}, 0) AS {name}" for name in map(sql_name, covariates))
        of_user += f", (covariates.unit IS NOT NULL)::DOUBLE AS {HAS_PAST}" if covariates else ""
        join = "LEFT JOIN covariates ON covariates.unit = each.unit" if covariates else ""
        for part in parts:
            users = f"SELECT unit, stage, arm, {added} FROM {rows} WHERE {part} GROUP BY ALL"
            columns = f"COLUMNS(each.*), 1::DOUBLE AS {ONE}{of_user}"
            found.add(self.db.execute(f"SELECT {columns} FROM ({users}) AS each {join}").fetchnumpy())
        return found

    def segments(self) -> list[tuple[str | None, int]]:
        """List the segments with their numbers of decisions, the largest first.

        Call this method before `users`. It removes users with several arms, who can't be recognised within one segment.
        """
        rows = self._select()
        self.db.execute(
            f"""CREATE TABLE crossed AS
            SELECT unit, stage FROM {rows} GROUP BY unit, stage HAVING min(arm) < max(arm);
            CREATE OR REPLACE TABLE user_sum AS
            SELECT * EXCLUDE stage FROM user_sum JOIN (SELECT cell, stage FROM selected) USING (cell)
                   ANTI JOIN crossed USING (unit, stage)"""
        )
        query = f"SELECT segment, sum(decisions)::BIGINT FROM {rows} GROUP BY segment HAVING sum(decisions) > 0"
        return self.db.execute(f"{query} ORDER BY 2 DESC, 1").fetchall()

    def _parts(self) -> list[str]:
        """Return SQL conditions, each for a range of user hashes with about `_ROWS_AT_ONCE` rows."""
        ((rows,),) = self.db.execute("SELECT count(*) FROM user_sum").fetchall()
        bounds = [(part << 64) // (rows // _ROWS_AT_ONCE + 1) for part in range(rows // _ROWS_AT_ONCE + 2)]
        return [f"unit BETWEEN {begin}::UBIGINT AND {end - 1}::UBIGINT" for begin, end in pairwise(bounds)]

    def _select(self, changed: bool = False, condition: str = "true") -> str:
        stages, arms = (f"[{', '.join(map(sql_text, names))}]" for names in (self._stages, self._arms))
        self.db.execute(
            f"""CREATE OR REPLACE TABLE selected AS
            SELECT cell, (list_position({stages}, stage) - 1)::UTINYINT AS stage,
                   (list_position({arms}, arm) - 1)::UTINYINT AS arm
            FROM counted {"" if changed else "WHERE NOT changed"}"""
        )
        return f"""(SELECT user_sum.*, stage, arm FROM user_sum JOIN selected USING (cell) LEFT JOIN named USING (unit)
                    WHERE user_sum.hour <= coalesce(since, user_sum.hour) AND {condition})"""

    def _typical_decisions(self, rows: str, parts: Iterable[str]) -> Floats:
        users: dict[int, Counter[float]] = {stage: Counter() for stage in range(len(self._stages))}
        for part in parts:
            for stage, decisions, number in self.db.execute(
                f"""SELECT stage, decisions, count(*) FROM (
                    SELECT stage, sum(decisions) AS decisions FROM {rows}
                    WHERE {part} GROUP BY unit, stage HAVING min(arm) = max(arm))
                GROUP BY ALL"""
            ).fetchall():
                users[stage][decisions] += number
        every = _median(sum(users.values(), Counter()))
        # In a stage with few users, most of them may be health checks, so the median of all stages is an upper limit.
        return np.array(
            [
                _median(of_stage) if of_stage.total() >= MIN_USERS else min(_median(of_stage), every)
                for of_stage in users.values()
            ]
        )


def _first(*keys: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return a mask (N,) of the rows that differ from the previous row."""
    differs = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return np.concatenate([np.ones(min(len(keys[0]), 1), dtype=bool), differs])


def _median(users: Counter[float]) -> float:
    """Return the median of numbers, given the count of each number; infinity for no numbers."""
    if not users:
        return math.inf
    numbers = np.array(sorted(users))
    ends = np.cumsum([users[number] for number in numbers])
    middle = [numbers[np.searchsorted(ends, at, side="right")] for at in ((ends[-1] - 1) // 2, ends[-1] // 2)]
    return float(np.mean(middle))


@contextmanager
def experiment_users(
    log: DecisionLog, experiment: Experiment, gain: Gain, segment: str = ""
) -> Iterator[ExperimentUsers]:
    """Read the decisions of an experiment that count, with their cost and the outcomes of every metric.

    Args:
        segment: SQL expression for the segment of a decision; "" for no segments.
    """
    names = tuple(dict.fromkeys((COST, *experiment.metrics.names)))
    kinds = tuple(dict.fromkeys(kind for name in names for kind in outcomes_of(name, gain)))
    with log.opened("outcome") as db, counted_users(db, log, experiment, kinds, segment) as counted:
        yield ExperimentUsers(
            counted,
            () if segment or experiment.covariates is None else covariate_names(kinds),
            db,
            list(shares_of_stages(experiment)),
            [arm.name for arm in experiment.arms],
            *user_columns(kinds, log.weights is not None),
            {name: metric(name, gain).numerator for name in names},
        )
