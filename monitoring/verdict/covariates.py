"""Computes covariates: what each user did before the experiment, to make the estimate of the lift more precise.

Only outcomes that were known before the experiment count, because later outcomes may depend on the arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mtorl.experiment.experiment import Experiment
from mtorl.experiment.inference.heavy_users import HEAVIEST
from mtorl.log.lake import HOUR, Lake, instant
from mtorl.runtime.sql import sql_name, sql_text

if TYPE_CHECKING:
    import duckdb

# Prefix of the names of columns with covariates.
PREFIX = "covariate:"


def covariate_names(kinds: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the covariates: past decisions, and past sums of outcomes."""
    return ("past decisions", *(f"past {kind}" for kind in kinds))


def past_ends(db: duckdb.DuckDBPyConnection, experiment: Experiment, rows: str, time: str) -> datetime:
    """Return when the users' past ends: at the first decision at a stage with challengers.

    Args:
        rows: SQL of a table with at least the experiment's decisions.
        time: SQL of a decision's time.
    """
    ((found,),) = db.execute(
        f"""SELECT coalesce(min({time}), 'epoch') FROM {rows}
        WHERE (salt <> $salt OR layer <> $layer) IS NOT TRUE AND assignment_probability < 1""",
        {"salt": experiment.salt, "layer": experiment.layer},
    ).fetchall()
    ends: datetime = found.astimezone(UTC)
    return ends


def make_covariates(db: duckdb.DuckDBPyConnection, lake: Lake, begins: datetime, kinds: Sequence[str]) -> None:
    """Create the table `covariates`, with one row per user who has a past.

    Each covariate has mean 0 and standard deviation 1, so that sums of squares have small rounding errors.
    """
    columns = [sql_name(PREFIX + name) for name in covariate_names(kinds)]
    added = "".join(
        f", coalesce(sum(value) FILTER (kind = {sql_text(kind)}), 0) AS {column}"
        for kind, column in zip(kinds, columns[1:], strict=True)
    )
    known = "".join(f", weight * coalesce({column}, 0) AS {column}" for column in columns[1:])
    db.execute(
        f"""CREATE TABLE past AS
        WITH before AS (
            SELECT decision_id, hash(user_id) AS unit FROM {lake.records(db, "decision", until=begins + HOUR)}
            WHERE event_time < {instant(begins)} AND NOT withdrawn),
        outcome AS (
            SELECT unit{added} FROM {lake.records(db, "outcome", until=begins + HOUR)} JOIN before USING (decision_id)
            WHERE greatest(event_time, received_time) < {instant(begins)} GROUP BY unit),
        counted AS (SELECT unit, count(*) AS decisions FROM before GROUP BY unit),
        -- Give very busy users a lower weight, by the same rule as `mtorl.experiment.inference.heavy_users`.
        weighted AS (
            SELECT *, least(1.0, {HEAVIEST} * (SELECT median(decisions) FROM counted) / decisions) AS weight
            FROM counted)
        SELECT unit, weight * decisions AS {columns[0]}{known} FROM weighted LEFT JOIN outcome USING (unit)"""
    )
    scaled = ", ".join(
        f"({of} - (SELECT avg({of}) FROM past)) / (SELECT coalesce(nullif(stddev_pop({of}), 0), 1) FROM past) AS {of}"
        for of in columns
    )
    db.execute(f"CREATE TABLE covariates AS SELECT unit, {scaled} FROM past; DROP TABLE past")
