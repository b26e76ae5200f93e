"""Covariates of an experiment's lift: facts about its users from before they met any arm.

    names = find_known(db, log, experiment, kinds)      # the table `known`: unit, and a column of each name

**The past** is what a user did in the same log before its first decision at a stage with challengers, in any
experiment: at the stage shadow all users have the incumbent, and another experiment splits users independently. Of
these decisions the outcomes count that were known by then: a later one may depend on the arm.

**A table** holds other facts, such as a forecast of the incumbent's model. A number in it that was not known beforehand
differs between the arms sooner or later, which the verdict looks for (`Comparison.unbalanced`).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from monitoring.decision_log import DecisionLog
from monitoring.verdict.hourly_sums import quoted
from mtorl.experiment.covariates import MOST_COLUMNS, USER
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.inference.heavy_users import HEAVIEST

if TYPE_CHECKING:
    import duckdb

PREFIX = "known:"  # of a covariate's column
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
            "UHUGEINT", "FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN")  # fmt: skip

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
    parts, names = [], []
    if spec.past:
        names += _find_past(db, experiment, tuple(kinds), begins)
        parts.append("past")
    if spec.table is not None:
        told = _read_table(db, Path(spec.table), spec.columns)
        if twice := {name.lower() for name in names}.intersection(name.lower() for name in told):
            raise ExperimentError(
                f"covariates.table: {spec.table}: what is known of the past is called {min(twice)!r}, too: rename the "
                "column, or leave it out"
            )
        names += told
        parts.append("told")
    db.execute(f"CREATE TABLE known AS FROM {' FULL JOIN '.join(parts)}" + " USING (unit)" * (len(parts) - 1))
    return tuple(names)


def _find_past(
    db: duckdb.DuckDBPyConnection, experiment: Experiment, kinds: tuple[str, ...], begins: datetime | None
) -> list[str]:
    if begins is not None:
        db.execute(
            """CREATE TABLE met AS
            SELECT DISTINCT hash(user_id) AS unit, $begins::TIMESTAMPTZ AS first FROM decision_log""",
            {"begins": begins},
        )
    else:
        db.execute(
            """CREATE TABLE met AS
            SELECT hash(user_id) AS unit, min(event_time) AS first FROM decision_log
            WHERE (experiment <> $name OR salt <> $salt OR layer <> $layer) IS NOT TRUE AND assignment_probability < 1
            GROUP BY unit""",
            {"name": experiment.name, "salt": experiment.salt, "layer": experiment.layer},
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
        types = dict(zip(table.columns, map(str, table.types), strict=True))
        _check_columns(file, types, columns)
        names = list(columns or [name for name in types if name != USER])
        _check_rows(db, file, names)
    except duckdb.Error as error:
        raise ExperimentError(f"covariates.table: {file}: {str(error).splitlines()[0]}") from None
    read = ", ".join(f"nullif({quoted(name)}::DOUBLE, 'nan'::DOUBLE) AS {_column(name)}" for name in names)
    db.execute(f"CREATE TABLE told AS SELECT hash({USER}::VARCHAR) AS unit, {read} FROM covariate_table")
    return names


def _check_columns(file: Path, types: dict[str, str], columns: tuple[str, ...]) -> None:
    said = f"covariates.table: {file}"
    if USER not in types:
        raise ExperimentError(f"{said}: no column {USER}; there are {', '.join(types)}")
    if missing := [name for name in columns if name not in types]:
        raise ExperimentError(f"{said}: no column {missing[0]!r}; there are {', '.join(types)}")
    names = columns or tuple(name for name in types if name != USER)
    if not names or len(names) > MOST_COLUMNS:
        raise ExperimentError(
            f"{said}: expected 1 to {MOST_COLUMNS} columns beside {USER}, got {len(names)}: name them"
        )
    if texts := [name for name in names if types[name].split("(")[0] not in _NUMBERS]:
        raise ExperimentError(f"{said}: column {texts[0]!r} holds no numbers, but {types[texts[0]]}")


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
            example_said = f", one of them {example!r}" if example is not None else ""
            raise ExperimentError(f"covariates.table: {file}: {count:,} {fault}{example_said}")


def _column(name: str) -> str:
    return quoted(PREFIX + name)
