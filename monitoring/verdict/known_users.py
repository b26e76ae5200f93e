"""Covariates of an experiment's lift: facts about its users from before they met any arm.

    names = find_known(db, log, experiment, kinds)      # the table `known`: unit, and a column of each name

**The past** is what a user did in the same log before its first decision at a stage with challengers, in any
experiment: at the stage shadow all users have the incumbent, and another experiment splits users independently. Of
these decisions the outcomes count that were known by then: a later one may depend on the arm.

**A table** holds other facts, such as a forecast of the incumbent's model. A number in it that was not known beforehand
differs between the arms sooner or later, which the verdict looks for (`Comparison.unbalanced`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pandas.api.types import is_numeric_dtype

from monitoring.decision_log import DecisionLog
from monitoring.verdict.hourly_sums import quoted
from mtorl.experiment.covariates import MOST_COLUMNS, USER
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.inference.heavy_users import HEAVIEST

if TYPE_CHECKING:
    import duckdb

PREFIX = "known:"  # of a covariate's column
_LARGEST = 1e100  # of larger numbers, squares can't be added up


def find_known(
    db: duckdb.DuckDBPyConnection,
    log: DecisionLog,
    experiment: Experiment,
    kinds: Iterable[str],
    begins: datetime | None = None,
) -> tuple[str, ...]:
    """Make the table `known`; returns its columns, none if nothing is known. A table's faults are an ExperimentError.

    Args:
        db: Holds the views `decision_log` and `outcome_log`.
        log: Its period does not bound the past.
        kinds: Outcomes whose sums in the past are covariates.
        begins: End of the past of all users, for a plan; None: when each meets an arm.
    """
    spec = experiment.covariates
    if spec is None:
        return ()
    tables = {"past": _find_past(db, experiment, tuple(kinds), begins)} if spec.past else {}
    if spec.table is not None:
        told = _read_table(db, Path(spec.table), spec.columns)
        past = {name.lower() for name in tables.get("past", ())}
        if twice := past.intersection(name.lower() for name in told):
            raise ExperimentError(
                f"covariates.table: {spec.table}: what is known of the past is called {min(twice)!r}, too: rename the "
                "column, or leave it out"
            )
        tables["told"] = told
    db.execute(f"CREATE TABLE known AS FROM {' FULL JOIN '.join(tables)}" + " USING (unit)" * (len(tables) - 1))
    return tuple(name for names in tables.values() for name in names)


def _find_past(
    db: duckdb.DuckDBPyConnection, experiment: Experiment, kinds: tuple[str, ...], begins: datetime | None
) -> list[str]:
    db.execute(
        """CREATE TABLE met AS
        SELECT hash(user_id) AS unit, coalesce($begins::TIMESTAMPTZ, min(event_time) FILTER (
            (experiment <> $name OR salt <> $salt OR layer <> $layer) IS NOT TRUE AND assignment_probability < 1)
        ) AS first FROM decision_log GROUP BY unit""",
        {"begins": begins, "name": experiment.name, "salt": experiment.salt, "layer": experiment.layer},
    )
    db.execute(
        """CREATE TABLE before AS
        SELECT decision_id, unit, first FROM decision_log AS each
               JOIN met ON met.unit = hash(each.user_id)
        WHERE event_time < first AND NOT withdrawn"""
    )
    names = {kind: f"past {kind}" for kind in kinds}
    added = "".join(
        f", coalesce(sum(value) FILTER (kind = '{kind}'), 0) AS {_column(name)}" for kind, name in names.items()
    )
    known = "".join(f", weight * coalesce({_column(name)}, 0) AS {_column(name)}" for name in names.values())
    db.execute(
        f"""CREATE TABLE past AS
        WITH outcome AS (
            SELECT unit{added} FROM outcome_log JOIN before USING (decision_id)
            WHERE greatest(event_time, received_time) < first GROUP BY unit),
        counted AS (SELECT unit, count(*) AS decisions FROM before GROUP BY unit),
        weighted AS (  -- as `mtorl.experiment.inference.heavy_users` weighs what they do in the experiment
            SELECT *, least(1.0, {HEAVIEST} * (SELECT median(decisions) FROM counted) / decisions) AS weight
            FROM counted)
        SELECT unit, weight * decisions AS {_column("past decisions")}{known}
        FROM weighted LEFT JOIN outcome USING (unit)"""
    )
    db.execute("DROP TABLE met; DROP TABLE before")
    return ["past decisions", *names.values()]


def _read_table(db: duckdb.DuckDBPyConnection, file: Path, columns: tuple[str, ...]) -> list[str]:
    import duckdb

    if not file.is_file():
        raise ExperimentError(f"covariates.table: {file}: no such file")
    try:
        table = db.read_csv(str(file), dtype={USER: "VARCHAR"}) if file.suffix == ".csv" else db.from_parquet(str(file))
        table.create("covariate_table")  # all of it at once, so that a fault in it is found here
        names = list(columns or [name for name in table.columns if name != USER])
        if (fault := _fault_of_columns(table, names)) is not None:
            raise ExperimentError(f"covariates.table: {file}: {fault}")
        _check_rows(db, file, names)
    except duckdb.Error as error:
        raise ExperimentError(f"covariates.table: {file}: {str(error).splitlines()[0]}") from None
    read = ", ".join(f"nullif({quoted(name)}::DOUBLE, 'nan'::DOUBLE) AS {_column(name)}" for name in names)
    db.execute(f"CREATE TABLE told AS SELECT hash({USER}::VARCHAR) AS unit, {read} FROM covariate_table")
    return names


def _fault_of_columns(table: duckdb.DuckDBPyRelation, names: Collection[str]) -> str | None:
    for name in (USER, *names):
        if name not in table.columns:
            return f"no column {name!r}; there are {', '.join(table.columns)}"
    if not 0 < len(names) <= MOST_COLUMNS:
        return f"expected 1 to {MOST_COLUMNS} columns beside {USER}, got {len(names)}: name them"
    types = table.limit(0).df().dtypes
    for name, of in zip(table.columns, table.types, strict=True):
        if name in names and not is_numeric_dtype(types[name]):
            return f"column {name!r} holds no numbers, but {of}"
    return None


def _check_rows(db: duckdb.DuckDBPyConnection, file: Path, names: list[str]) -> None:
    faults = {
        f"rows without a {USER}": f"FROM covariate_table WHERE {USER} IS NULL",
        "users have several rows": f"FROM covariate_table GROUP BY {USER} HAVING count(*) > 1",
        **{
            f"rows of column {name!r} are infinite, or beyond {_LARGEST:g}": f"FROM covariate_table WHERE "
            f"abs({quoted(name)}::DOUBLE) > {_LARGEST!r} AND NOT isnan({quoted(name)}::DOUBLE)"
            for name in names
        },
    }
    for fault, rows in faults.items():
        ((count, example),) = db.execute(
            f"SELECT count(*), min({USER}::VARCHAR) FROM (SELECT {USER} {rows})"
        ).fetchall()
        if count:
            of = f", one of them {example!r}" if example is not None else ""
            raise ExperimentError(f"covariates.table: {file}: {count:,} {fault}{of}")


def _column(name: str) -> str:
    return quoted(PREFIX + name)
