"""The users of an experiment: their sums for every metric, in each stage and arm, read from the decision log.

    with experiment_users(log, experiment, gain) as found:
        users = found.users()                   # of the decisions that count (`counted_decisions.py`)
        others = found.users(changed=True)      # also those of days on which the stage was changed, or the switch used

Users are added up in parts, by a hash: memory depends on no number of decisions or users.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from monitoring.decision_log import DecisionLog
from monitoring.verdict.counted_decisions import CountedDecisions, shares_of_stages
from monitoring.verdict.hourly_sums import quoted, sql_text, user_columns
from monitoring.verdict.known_users import PREFIX, find_known
from monitoring.verdict.stored_sums import counted_users
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.inference.heavy_users import user_weights
from mtorl.experiment.inference.statistics import MIN_USERS
from mtorl.experiment.inference.sums import Floats
from mtorl.experiment.inference.user_sums import UserSums
from mtorl.experiment.metrics import COST, DECISIONS, Terms, metric, outcomes_of
from mtorl.log.gain import Gain
from mtorl.log.lake import HOUR, Lake

if TYPE_CHECKING:
    import duckdb


NAMED_SHARE = 0.05  # share of an arm's decisions from which on a user is named
ONE = "one"  # a column that is 1 in each row
KNOWN = "known?:"  # of a column that is 1 where a covariate of this name is known, else 0
_ROWS_AT_ONCE = 500_000
_LOOKS = 30  # at the users who came first, in a series
_LOOKS_BYTES = 50_000_000  # fewer looks, where each takes much memory


class HeavyUser(NamedTuple):
    """A user with so many of an arm's decisions that it is reported: a probe, a bot, a shared id."""

    arm: str
    user: str
    share: float  # of the arm's decisions


@dataclass
class Users:
    """The users of a comparison. Those in several arms of a stage are left out.

    Attributes:
        sums: What is compared. Columns have the user's `weight` (`heavy_users.py`), but for covariates.
        totals_CB: The sums of the log itself, of the same columns.
        of_arms: Users by the set of arms that they are in, as bits; a user who got the challenger at a later stage than
            the incumbent is in both.
        looks: The users who came first, with all that they did, and how many of `of_arms`; ever more of them.
        known: The same, of users of whom any covariate is known.
        capped: Users with a weight below 1, by arm.
        heavy: Those with `NAMED_SHARE` of their arm's decisions, the heaviest first.
        crossed: Users in several arms of a stage.
        all_users: Users, including those.
        late: Outcomes that came too late to count.
    """

    stages: list[str]
    arms: list[str]
    sums: UserSums
    totals_CB: Floats
    of_arms: Counter[int] = field(default_factory=Counter)
    looks: list[tuple[UserSums, Counter[int]]] = field(default_factory=list)
    known: Counter[int] = field(default_factory=Counter)
    capped: Counter[str] = field(default_factory=Counter)
    heavy: list[HeavyUser] = field(default_factory=list)
    crossed: int = 0
    all_users: int = 0
    late: int = 0

    def count(self, *arms: str, known: bool = False) -> int:
        """Users of any of these arms, each once."""
        wanted = sum(1 << self.arms.index(arm) for arm in arms)
        return sum(users for bits, users in (self.known if known else self.of_arms).items() if bits & wanted)

    @property
    def moved(self) -> int:
        """Users in more than one arm, at different stages."""
        return sum(users for bits, users in self.of_arms.items() if bits.bit_count() > 1)

    def of(self, arm: str, terms: Terms, weighted: bool = False) -> float:
        """A weighted sum of an arm's columns over all stages."""
        cells = self.sums.cells(self.arms.index(arm))
        totals = (self.sums.totals_CB if weighted else self.totals_CB)[cells].sum(0)
        return float(sum(weight * totals[self.sums.place(name)] for name, weight in terms))

    def by_stage(self, arm: str) -> npt.NDArray[np.int64]:
        """An arm's users at each stage, (S,)."""
        return self.sums.users_C[self.sums.cells(self.arms.index(arm))].astype(np.int64)


@dataclass(frozen=True)
class ExperimentUsers:
    """The decisions of a verdict, while their tables exist."""

    counted: CountedDecisions
    covariates: Mapping[str, tuple[float, float]]  # what is known of a user beforehand: mean and standard deviation
    db: duckdb.DuckDBPyConnection  # with the tables of `hourly_sums.py`
    _lake: Lake
    _stages: list[str]
    _arms: list[str]
    _columns: tuple[str, ...]
    _same: Mapping[str, str]  # other names of these
    _numerators: Mapping[str, Terms]

    def users(self, changed: bool = False, segment: str = "true") -> Users:
        """Add up the decisions that count.

        Args:
            changed: Also those that `CHANGED` leaves out.
            segment: SQL, a condition on `segment`.
        """
        rows = self._select(changed, segment)
        known = [PREFIX + name for name in self.covariates]
        names = (*self._columns, ONE, *known, *(KNOWN + name for name in self.covariates))
        numerators = {**self._numerators, **{name: ((name, 1.0),) for name in names[len(self._columns) :]}}
        empty = partial(UserSums, names, len(self._stages), len(self._arms), numerators, self._same)
        found = Users(self._stages, self._arms, empty(), np.zeros_like(empty().totals_CB))
        until = self._looks(found.sums.products_CBCB.nbytes)
        found.looks = [(empty(), Counter()) for _ in until]
        parts = self._parts()
        adder = _Adder(found, self.covariates, until, *self._decisions(rows, parts))
        read = ", ".join(f"coalesce({quoted(name)}, 0) AS {quoted(name)}" for name in (*self._columns, "late"))
        of_user = "".join(f", {quoted(name)}" for name in known)
        query = f"""SELECT unit, stage, arm, epoch(hour) AS hour, {read}{of_user}
            FROM {rows} {"LEFT JOIN known USING (unit)" if known else ""} WHERE """
        for part in parts:
            adder.add(self.db.execute(query + part).fetchnumpy())
        for sums, of_arms in found.looks:  # so far, what each adds to the look before
            sums += found.sums
            of_arms.update(found.of_arms)
            found.sums, found.of_arms = sums, of_arms
        found.heavy = self._named(adder.heavy)
        return found

    def segments(self) -> list[tuple[str | None, int]]:
        """The segments of the decisions that count, with their decisions, the largest first.

        From then on, `users` leaves out who is in several arms of a stage, in whatever segments.
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
        """SQL conditions of users in parts; they are ranges, since the rows of the past are sorted."""
        ((rows,),) = self.db.execute("SELECT count(*) FROM user_sum").fetchall()
        bounds = [(part << 64) // (rows // _ROWS_AT_ONCE + 1) for part in range(rows // _ROWS_AT_ONCE + 2)]
        return [f"unit BETWEEN {begin}::UBIGINT AND {end - 1}::UBIGINT" for begin, end in pairwise(bounds)]

    def _select(self, changed: bool = False, condition: str = "true") -> str:
        """SQL of the rows of users that count, with stage and arm."""
        stages, arms = (
            "CASE " + " ".join(f"WHEN {of} = {sql_text(name)} THEN {at}" for at, name in enumerate(names)) + " END"
            for of, names in (("stage", self._stages), ("arm", self._arms))
        )
        self.db.execute(
            f"""CREATE OR REPLACE TABLE selected AS
            SELECT cell, hour, ({stages})::UTINYINT AS stage, ({arms})::UTINYINT AS arm
            FROM counted {"" if changed else "WHERE NOT changed"}"""
        )
        return f"""(SELECT user_sum.*, stage, arm FROM user_sum JOIN selected USING (cell) LEFT JOIN named USING (unit)
                    WHERE user_sum.hour <= coalesce(since, user_sum.hour) AND {condition})"""

    def _looks(self, size: int) -> Floats:
        """Hours until which users have come at each look, seconds since 1970; `size` of a look's sums, bytes."""
        hours = np.ravel(self.db.execute("SELECT DISTINCT epoch(hour) FROM selected ORDER BY 1").fetchall())
        looks = max(1, min(_LOOKS, _LOOKS_BYTES // size, len(hours)))
        ends = np.linspace(len(hours) / looks, len(hours), looks).round().astype(int) - 1
        return np.asarray(hours[ends] if len(hours) else [0.0])

    def _decisions(self, rows: str, parts: Iterable[str]) -> tuple[Floats, Floats]:
        """Typical decisions of a user of each stage, and decisions of each arm, of users in one arm of a stage."""
        users: dict[int, Counter[float]] = {stage: Counter() for stage in range(len(self._stages))}
        of_arms = np.zeros(len(self._arms))
        for part in parts:
            for stage, arm, decisions, number in self.db.execute(
                f"""SELECT stage, arm, decisions, count(*) FROM (
                    SELECT unit, stage, min(arm) AS arm, sum(decisions) AS decisions FROM {rows}
                    WHERE {part} GROUP BY unit, stage HAVING min(arm) = max(arm))
                GROUP BY ALL"""
            ).fetchall():
                users[stage][decisions] += number
                of_arms[arm] += decisions * number
        every = _median(sum(users.values(), Counter()))
        medians = [
            _median(of_stage) if of_stage.total() >= MIN_USERS else min(_median(of_stage), every)  # perhaps all probes
            for of_stage in users.values()
        ]
        return np.array(medians), of_arms

    def _named(self, heavy: Collection[tuple[float, int, int]]) -> list[HeavyUser]:
        if not heavy:
            return []
        names = {}
        for unit, hour in self.db.execute(
            "SELECT unit, min(hour) FROM user_sum WHERE unit IN (SELECT unnest($units)) GROUP BY unit",
            {"units": [unit for _, _, unit in heavy]},
        ).fetchall():
            decided = self._lake.records(self.db, "decision", hour, hour + HOUR, f"hash(user_id) = {unit}")
            ((names[unit],),) = self.db.execute(f"SELECT any_value(user_id) FROM {decided}").fetchall()
        return [HeavyUser(self._arms[arm], str(names[unit]), share) for share, arm, unit in sorted(heavy, reverse=True)]


@dataclass
class _Adder:
    """Adds users to the sums, part by part; a user is in one part alone."""

    found: Users
    covariates: Mapping[str, tuple[float, float]]
    until: Floats  # of `_looks`
    typical: Floats  # decisions of a user of each stage
    decisions: Floats  # of each arm
    heavy: list[tuple[float, int, int]] = field(default_factory=list)  # share of the arm's decisions, arm, unit

    def add(self, values: Mapping[str, Any]) -> None:
        """Add rows of users, in any order, those of one user, stage and arm in any number."""
        found, size = self.found, self.found.sums.columns.index(ONE)  # columns from there on have no weight
        found.late += int(values["late"].sum())
        unit, cell = values["unit"], values["stage"].astype(np.intp) * len(found.arms) + values["arm"]
        order = np.argsort(unit)
        key = _first(unit[order]).cumsum() * len(found.totals_CB) + cell[order]
        order = order[np.argsort(key, kind="stable")]
        starts = np.flatnonzero(_first(cell[order]) | _first(unit[order]))  # of a user, stage and arm
        unit, cell = unit[order[starts]], cell[order[starts]]
        stage = cell // len(found.arms)
        found.all_users += int(_first(unit).sum())
        again = np.flatnonzero((unit[1:] == unit[:-1]) & (stage[1:] == stage[:-1]))
        crossed = np.zeros(len(unit), dtype=bool)
        crossed[again] = crossed[again + 1] = True
        found.crossed += int(_first(unit[crossed]).sum())
        hour = np.minimum.reduceat(values["hour"][order], starts) if len(starts) else np.zeros(0)
        kept = np.flatnonzero(~crossed)
        users = np.flatnonzero(_first(unit[kept]))
        if not len(kept):
            return
        looks = np.searchsorted(self.until, np.minimum.reduceat(hour[kept], users))
        looks = np.repeat(looks, np.diff(users, append=len(kept))).astype(np.uint8)
        by_look = np.argsort(looks, kind="stable")
        kept, looks = kept[by_look], looks[by_look]
        unit, cell, stage = unit[kept], cell[kept], stage[kept]
        figures = self._figures(values, order, starts, kept)
        own = figures[found.sums.place(DECISIONS)].copy()
        for total, column in zip(found.totals_CB.T, figures, strict=True):
            total += np.bincount(cell, column, len(total))
        weight = user_weights(own, self.typical[stage])
        heavy = np.flatnonzero(weight < 1.0)
        figures[:size, heavy] *= weight[heavy]
        arm = cell % len(found.arms)
        self._add_heavy(unit[heavy], arm[heavy], own[heavy])
        starts = np.flatnonzero(_first(unit))
        of_arms = np.bitwise_or.reduceat(1 << arm, starts)
        bounds = np.searchsorted(looks, np.arange(len(found.looks) + 1))
        of_users = np.searchsorted(starts, bounds)
        for (sums, of_look), begin, end, first, last in zip(
            found.looks, bounds, bounds[1:], of_users, of_users[1:], strict=False
        ):
            if begin < end:
                sums.add(unit[begin:end], cell[begin:end], figures[:, begin:end])
                of_look.update(_counted(of_arms[first:last]))
        if self.covariates:
            known = figures[size + 1 + len(self.covariates) :, starts].any(0)
            found.known.update(_counted(of_arms[known]))

    def _figures(
        self,
        values: Mapping[str, Any],
        order: npt.NDArray[np.intp],
        starts: npt.NDArray[np.intp],
        kept: npt.NDArray[np.intp],
    ) -> Floats:
        """The columns, (B, R), of the users' rows; rows in this order, of which each starts one."""
        columns = self.found.sums.columns
        figures = np.empty((len(columns), len(kept)))
        size = columns.index(ONE)
        figures[size] = 1.0
        once = order[starts[kept]]
        for place, name in enumerate(columns[:size]):
            figures[place] = (
                values[name][once] if len(starts) == len(order) else np.add.reduceat(values[name][order], starts)[kept]
            )
        for place, (name, (mean, spread)) in enumerate(self.covariates.items(), start=size + 1):
            read = np.ma.filled(np.ma.asarray(values[PREFIX + name])[once].astype(np.float64), np.nan)
            there = np.isfinite(read)
            figures[place] = np.where(there, (read - mean) / spread, 0.0)
            figures[place + len(self.covariates)] = there
        return figures

    def _add_heavy(self, unit: npt.NDArray[np.uint64], arm: npt.NDArray[np.intp], own: Floats) -> None:
        for number, name in enumerate(self.found.arms):
            users, place = np.unique(unit[arm == number], return_inverse=True)
            self.found.capped[name] += len(users)
            shares = np.bincount(place, own[arm == number], len(users)) / max(self.decisions[number], 1.0)
            named = np.flatnonzero(shares >= NAMED_SHARE)
            self.heavy += [(float(shares[at]), number, int(users[at])) for at in named]


def _first(unit: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Whether a row is its user's first one."""
    return np.concatenate([np.ones(min(len(unit), 1), dtype=bool), unit[1:] != unit[:-1]])


def _counted(bits: npt.NDArray[np.intp]) -> Counter[int]:
    users = np.bincount(bits)
    return Counter({int(value): int(users[value]) for value in np.flatnonzero(users)})


def _median(users: Counter[float]) -> float:
    """Median of numbers, each with how often it is there; infinite without any."""
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
    """Read the decisions that count, with their outcomes: cost, and those of every metric of the experiment.

    Args:
        segment: SQL of the segment of a `record`: rows of `users` may then be those of a segment.

    Raises:
        ExperimentError: The table of the experiment's covariates can't be used.
    """
    names = tuple(dict.fromkeys((COST, *experiment.metrics.names)))
    kinds = tuple(dict.fromkeys(kind for name in names for kind in outcomes_of(name, gain)))
    with log.opened("outcome") as db, counted_users(db, log, experiment, kinds, segment) as counted:
        yield ExperimentUsers(
            counted,
            {} if segment else _covariates(db, find_known(db, log, experiment, kinds)),  # those by segment have none
            db,
            log.lake,
            list(shares_of_stages(experiment)),
            [arm.name for arm in experiment.arms],
            *user_columns(kinds, log.weights is not None),
            {name: metric(name, gain).numerator for name in names},
        )


def _covariates(db: duckdb.DuckDBPyConnection, names: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Mean and deviation of what is known, so that sums of their squares lose no digits; this changes no lift."""
    found = {}
    for name in names:
        of = quoted(PREFIX + name)
        ((mean, spread),) = db.execute(f"SELECT avg({of}), stddev_pop({of}) FROM known").fetchall()
        found[name] = (mean or 0.0, spread or 1.0)
    return found
