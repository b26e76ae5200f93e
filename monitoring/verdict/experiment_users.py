"""The users of an experiment: their sums for every metric, in each stage and arm, read from the decision log.

    with experiment_users(log, experiment, gain) as found:
        users = found.users()                   # of the decisions that count (`counted_decisions.py`)
        others = found.users(changed=True)      # also those of days on which the stage was changed, or the switch used

A log of ten million decisions does not fit into memory: DuckDB keeps its tables in a file while the block lasts, and a
frame has numbers and codes alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from monitoring.decision_log import DecisionLog, one_record_each_of_few_copies
from monitoring.verdict.counted_decisions import (
    CHANGED,
    CountedDecisions,
    count_decisions,
    matures,
    shares_of_stages,
    sql_text,
)
from monitoring.verdict.known_users import PREFIX, find_known
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.inference.heavy_users import user_weights
from mtorl.experiment.inference.statistics import MIN_USERS
from mtorl.experiment.metrics import COST, column, gain_of, outcomes_of, sums, total
from mtorl.log.gain import Gain

if TYPE_CHECKING:
    import duckdb


NAMED_SHARE = 0.05  # share of an arm's decisions from which on a user is named


class HeavyUser(NamedTuple):
    """A user with so many of an arm's decisions that it is reported: a probe, a bot, a shared id."""

    arm: str
    user: str
    share: float  # of the arm's decisions


class Users(NamedTuple):
    """The users of a comparison.

    Attributes:
        rows: One a user and stage: `unit` (a number), `stage`, `arm`, the sums of its decisions, and its covariates.
            Users are in the order of their arrival, and each user's rows follow each other. Users in several arms of a
            stage are missing there. What is compared (numerators, denominators, outcomes by age) has the user's
            `weight` (`heavy_users.py`). The totals `decisions`, `gain` and `cost` are those of the log.
    """

    rows: pd.DataFrame
    heavy: list[HeavyUser]  # users with a weight below 1 and `NAMED_SHARE` of their arm's decisions, the heaviest first
    arms: pd.DataFrame  # decisions of these rows in all, by arm
    crossed: int  # users in several arms of a stage
    all_users: int  # users, including those
    late: int  # outcomes that came too late to count

    def counts(self) -> UserCounts:
        """How many users these are."""
        of_arms = self.rows[["unit", "arm"]].drop_duplicates()
        again = of_arms["unit"].duplicated()
        return UserCounts(
            in_all=int((~again).sum()),
            of_arms={str(arm): int(count) for arm, count in of_arms["arm"].value_counts().items()},
            moved=int(of_arms.loc[again, "unit"].nunique()),
        )


class UserCounts(NamedTuple):
    """Numbers of users that count. A user is one, in however many stages.

    Attributes:
        of_arms: A user who got the challenger at a later stage than the incumbent is in both: the arms are compared
            within each stage.
    """

    in_all: int
    of_arms: dict[str, int]
    moved: int  # users in more than one arm for that reason


@dataclass(frozen=True)
class ExperimentUsers:
    """The decisions of a verdict, while their tables exist."""

    counted: CountedDecisions
    covariates: tuple[str, ...]  # columns of the rows with what is known of a user beforehand; null, where nothing is
    _db: duckdb.DuckDBPyConnection
    _sums: str  # SQL: of a unit
    _by: str  # SQL: what else than unit, stage and arm has a row of its own

    def users(self, changed: bool = False) -> Users:
        """Add up the decisions that count; with `changed`, also those that `CHANGED` leaves out."""
        counted = f"(FROM judged {'' if changed else 'WHERE NOT changed'})"
        self._db.execute(
            f"""CREATE OR REPLACE TABLE crossed AS
            SELECT unit, stage FROM {counted} GROUP BY unit, stage HAVING min(arm) < max(arm)"""
        )
        in_one_arm = f"FROM {counted} ANTI JOIN crossed USING (unit, stage)"
        known = f"SELECT * EXCLUDE first FROM added {'LEFT JOIN known USING (unit)' if self.covariates else ''}"
        rows = self._db.execute(
            f"""WITH added AS (
                SELECT unit, stage, arm{self._by}, count(*)::INT AS decisions, {self._sums}, min(decided) AS first
                {in_one_arm} GROUP BY unit, stage, arm{self._by})
            {known} ORDER BY min(first) OVER (PARTITION BY unit), unit, first"""
        ).df()
        _weigh(rows, ["stage", *self._by.split(", ")[1:]])
        arms = self._db.execute(
            f"""SELECT arm, count(*) AS decisions, count_if(weight > 0) AS evaluable, count_if(expose) AS exposures,
                       count_if(fallback_reason IS NOT NULL) AS fallbacks,
                       fsum(weight) AS weight, fsum(weight * weight) AS squared_weight
            {in_one_arm} GROUP BY arm"""
        ).df()
        ((crossed, units, late),) = self._db.execute(
            f"""SELECT (SELECT count(DISTINCT unit) FROM crossed), count(DISTINCT unit), coalesce(sum(late), 0)
            FROM {counted}"""
        ).fetchall()
        return Users(rows, self._heavy(rows), arms.set_index("arm"), crossed, units, int(late))

    def _heavy(self, rows: pd.DataFrame) -> list[HeavyUser]:
        total = rows.groupby("arm", observed=True)["decisions"].sum()
        of_users = rows[rows["weight"] < 1.0].groupby(["arm", "unit"], observed=True)["decisions"].sum()
        shares = (of_users / total.reindex(of_users.index.get_level_values("arm")).to_numpy()).sort_values()
        shares = shares[shares >= NAMED_SHARE][::-1]
        if shares.empty:
            return []
        found = self._db.execute(
            "SELECT DISTINCT hash(user_id), user_id FROM decision_log WHERE hash(user_id) IN (SELECT unnest($units))",
            {"units": shares.index.get_level_values("unit").tolist()},
        ).fetchall()
        names = dict(found)
        return [HeavyUser(str(arm), str(names[unit]), float(share)) for (arm, unit), share in shares.items()]


def _weigh(rows: pd.DataFrame, within: list[str]) -> None:
    """Add each user's `weight` to the rows, and apply it; users are compared with others of the columns `within`."""
    decisions = rows["decisions"].to_numpy(np.float64)
    others = rows.groupby(within, observed=True, dropna=False)["decisions"]
    typical = others.transform("median").to_numpy(np.float64)
    few = others.transform("size").to_numpy() < MIN_USERS  # they may all be probes
    typical[few] = np.minimum(typical[few], np.median(decisions) if few.any() else 0.0)
    rows["weight"] = user_weights(decisions, typical)
    heavy = np.flatnonzero(rows["weight"] < 1.0)
    for place, name in enumerate(rows.columns):
        if name.endswith(("_numerator", "_denominator")) or name.startswith(("in_time:", "late:")):
            rows.iloc[heavy, place] *= rows["weight"].iloc[heavy]


@contextmanager
def experiment_users(
    log: DecisionLog, experiment: Experiment, gain: Gain, segment: str = ""
) -> Iterator[ExperimentUsers]:
    """Read the decisions that count, with their outcomes.

    Both logs are delivered at least once: of several records with one id, the one that counts is taken. A row has the
    two sums of the cost and of every metric that the experiment names; its gain is that of the primary metric.

    Args:
        segment: SQL of the segment of a `record`: a user then has a row for each, with its `segment`.

    Raises:
        ExperimentError: The table of the experiment's covariates can't be used.
    """
    names = tuple(dict.fromkeys((COST, *experiment.metrics.names)))
    kinds = dict.fromkeys(kind for name in names for kind in outcomes_of(name, gain))
    ages = {
        f'"{age}:{kind}"': f"{test} AND kind = '{kind}'"
        for kind in kinds
        for age, test in (("in_time", "in_time"), ("late", "NOT in_time"))
    }
    with log.opened("outcome") as db:
        counted = count_decisions(db, log, experiment, segment)
        pivot = ", ".join(f"sum(value) FILTER (in_time AND kind = '{kind}') AS {column(kind)}" for kind in kinds)
        aged = ", ".join(f"sum(abs(value)) FILTER ({test}) AS {age}" for age, test in ages.items())
        db.execute(
            f"""CREATE TABLE event AS
            SELECT coalesce(opportunity, decision_id) AS decision_id, kind, value,
                   greatest(CAST(event_time AS TIMESTAMPTZ), CAST(received_time AS TIMESTAMPTZ))
                       <= {matures(experiment, "taken")} AS in_time
            FROM (SELECT * REPLACE (hash(decision_id) AS decision_id)
                  FROM ({one_record_each_of_few_copies(db, "outcome", "outcome_log")}))
                 JOIN (SELECT decision_id, taken FROM decision) USING (decision_id)
                 LEFT JOIN repeat USING (decision_id)"""
        )
        db.execute(
            f"""CREATE TABLE outcome AS
            SELECT decision_id, {pivot}, {aged}, count_if(NOT in_time) AS late FROM event GROUP BY decision_id"""
        )
        every_stage = shares_of_stages(experiment)
        for type_, values in (
            ("stage_name", every_stage),
            ("arm_name", dict.fromkeys(arm.name for arm in experiment.arms)),
        ):
            db.execute(f"CREATE TYPE {type_} AS ENUM ({', '.join(map(sql_text, values))})")
        known = ", ".join(f"coalesce({name}, 0) AS {name}" for name in (*map(column, kinds), *ages, "late"))
        db.execute(
            f"""CREATE TABLE judged AS
            SELECT unit, stage::stage_name AS stage, arm::arm_name AS arm, left_out IS NOT NULL AS changed, weight,
                   expose, segment, fallback_reason, latency_seconds, decided, {known}
            FROM decision LEFT JOIN outcome USING (decision_id) WHERE left_out IS NULL OR left_out IN {CHANGED}"""
        )
        db.execute("DROP TABLE decision; DROP TABLE event; DROP TABLE outcome")
        totals = f"sum({total(gain_of(experiment.metrics.primary, gain))}) AS gain, sum({column('cost')}) AS cost"
        of_ages = ", ".join(f"sum({age})::DOUBLE AS {age}" for age in ages)
        names_of_known = () if segment else find_known(db, log, experiment, kinds)  # lifts by segment are not adjusted
        of_unit = f"{totals}, {of_ages}, {sums(names, gain)}"
        covariates = tuple(PREFIX + name for name in names_of_known)
        yield ExperimentUsers(counted, covariates, db, of_unit, ", segment" if segment else "")
