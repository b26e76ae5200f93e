"""Covariates of an experiment's lift: what its users did before they met any arm.

    names = find_known(db, experiment, kinds)      # the table `known`: unit, and a column of each name

The past of a user is what it did in the same log before its first decision at a stage with challengers, in any
experiment: at the stage shadow all users have the incumbent, and another experiment splits users independently. Of
these decisions the outcomes count that were known by then: a later one may depend on the arm.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from monitoring.verdict.hourly_sums import quoted
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.inference.heavy_users import HEAVIEST

if TYPE_CHECKING:
    import duckdb

PREFIX = "known:"  # of a covariate's column


def find_known(
    db: duckdb.DuckDBPyConnection, experiment: Experiment, kinds: Iterable[str], begins: datetime | None = None
) -> tuple[str, ...]:
    """Make the table `known`; returns the names of its columns, none for an experiment without covariates.

    Args:
        db: Holds the views `decision_log` and `outcome_log`; no period bounds the past.
        kinds: Outcomes whose sums in the past are covariates.
        begins: End of the past of all users, for a plan; None: when each meets an arm.
    """
    if experiment.covariates is None:
        return ()
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
        f"""CREATE TABLE known AS
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
    return ("past decisions", *names.values())


def _column(name: str) -> str:
    return quoted(PREFIX + name)
