"""Selects the decisions of an experiment that count in the verdict, and counts the others by reason (docs/verdict.md).

A decision counts for the arm to which the user was *assigned*, even if the default action was taken instead. Only
decisions by the newest model of each arm count.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, get_args

import pandas as pd

from monitoring.decision_log import DecisionLog
from monitoring.verdict.hourly_sums import matures
from mtorl.experiment.arm import OUTSIDE
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.stages import Stage

if TYPE_CHECKING:
    import duckdb


# People may act on bad days, so a second result includes the decisions that were left out for these reasons.
CHANGED = ("changed_period", "switched_off")


def shares_of_stages(experiment: Experiment) -> dict[str, dict[str, float]]:
    """Return each arm's share of the users, for each stage that assigns users at random.

    The shares are those without the kill switch, which does not change the assignment of users already in the log.
    """
    stages = [stage for stage in get_args(Stage) if stage != "shadow"]
    return {stage: experiment.replace(enabled=True, stage=stage).shares() for stage in stages}


class JudgedModels(NamedTuple):
    """The newest model of each arm.

    Attributes:
        digests: Digest of each arm's model; if the model has no digest, its name and version.
        since: Time of the last decision by an older model; None if no arm has had an older model.
    """

    digests: dict[str, str]
    since: datetime | None

    @property
    def said(self) -> str:
        """Return a remark about the last change of a model; "" if no model has changed."""
        if self.since is None:
            return ""
        at = f"{self.since:%Y-%m-%d %H:%M:%S} UTC"
        return f" (only decisions after {at} count, since the model of an arm, or its exploration, changed then)"


class CountedDecisions(NamedTuple):
    """A summary of the decisions that count in a verdict, and of those that do not.

    Attributes:
        left_out: Number of decisions that do not count, by reason.
        overridden: Number of users whose arm is or was set in the experiment file.
        hours: Hours between the first and the last counted decision, by stage. They are at most 24 times the number
            of days with decisions.
    """

    left_out: dict[str, int]
    models: JudgedModels
    overridden: int
    hours: dict[str, float]


def count_decisions(db: duckdb.DuckDBPyConnection, log: DecisionLog, experiment: Experiment) -> CountedDecisions:
    """Create the table `counted` with the decisions that count, and return a summary.

    Each row of the table is a group of similar decisions. `changed` marks groups that count only if the reasons in
    `CHANGED` are ignored.
    """
    models = _judged_models(db, experiment)
    rows = [(stage, arm, share) for stage, arms in shares_of_stages(experiment).items() for arm, share in arms.items()]
    db.register("share_of", pd.DataFrame(rows, columns=["stage", "arm", "share"]))
    db.register("other_split", pd.DataFrame(_other_splits(db, experiment), columns=["stage", "shares"], dtype=str))
    values = {
        "salt": experiment.salt,
        "layer": experiment.layer,
        "models_changed": models.since,
        "since": log.period.since,
        "until": log.period.until,
    }
    bounded = experiment.metrics.outcome_hours is not None
    immature = f"WHEN {matures(experiment, 'ended')} > newest THEN 'immature'" if bounded else ""
    db.execute(
        f"""CREATE TABLE judged AS
        WITH look AS (
            -- The newest time is at most now, even if the period ends in the future, or a router's clock was ahead.
            SELECT least(greatest(max(last), CAST($until AS TIMESTAMPTZ)), now()) AS newest,
                   CAST($since AS TIMESTAMPTZ) AS since FROM (FROM cell UNION ALL BY NAME FROM other)),
        each AS (
            SELECT *, coalesce((stage, shares) IN (FROM other_split), false) AS split_otherwise,
                   coalesce(ends, max(last) OVER (PARTITION BY hour)) AS ended FROM cell),
        budget_period AS (
            SELECT began AS start, bool_or(stage = 'off') AS off, {_changed(experiment)} AS changed
            FROM each WHERE began IS NOT NULL GROUP BY began)
        SELECT cell, repeated, hour, stage, arm, decisions, first, last,
               CASE WHEN salt <> $salt OR layer <> $layer THEN 'other_experiment'
                    WHEN overridden THEN 'override'
                    WHEN arm = '{OUTSIDE}' THEN arm
                    WHEN assignment_probability >= 1 THEN 'not_randomised'
                    WHEN coalesce(began, hour) <= $models_changed THEN 'other_model'
                    WHEN split_otherwise OR coalesce(abs(assignment_probability - share) >= 1e-9, true)
                    THEN 'other_weights'
                    WHEN repeated THEN 'repeated'
                    WHEN ends > newest OR began < since THEN 'unfinished_period'
                    {immature}
                    WHEN off THEN 'switched_off'
                    WHEN changed THEN 'changed_period' END AS left_out
        FROM each LEFT JOIN share_of USING (stage, arm) LEFT JOIN budget_period ON began = start CROSS JOIN look""",
        values,
    )
    db.execute(
        f"""CREATE TABLE counted AS
        SELECT cell, hour, stage, arm, left_out IS NOT NULL AS changed FROM judged
        WHERE left_out IS NULL OR left_out IN {CHANGED}"""
    )
    return CountedDecisions(_left_out(db), models, _overridden_users(db), _hours(db))


def _left_out(db: duckdb.DuckDBPyConnection) -> dict[str, int]:
    ((others,),) = db.execute("SELECT coalesce(sum(decisions), 0)::BIGINT FROM other").fetchall()
    found = Counter({"other_experiment": others})
    found.update(dict(db.execute("SELECT left_out, sum(decisions)::BIGINT FROM judged GROUP BY left_out").fetchall()))
    named = db.execute(
        """SELECT left_out, sum(user_sum.decisions)::BIGINT
        FROM user_sum JOIN named USING (unit) JOIN (FROM judged WHERE NOT repeated) USING (cell)
        WHERE user_sum.hour > named.since AND coalesce(left_out, '') NOT IN ('other_experiment', 'override')
        GROUP BY left_out"""
    ).fetchall()
    for reason, decisions in named:
        found[reason] -= decisions or 0
        found["override"] += decisions or 0
    return {reason: count for reason, count in sorted((+found).items(), key=str) if reason is not None}


def _overridden_users(db: duckdb.DuckDBPyConnection) -> int:
    ((users,),) = db.execute(
        """SELECT count(DISTINCT unit) FROM user_sum JOIN named USING (unit) JOIN judged USING (cell)
        WHERE left_out = 'override' OR user_sum.hour > named.since AND left_out IS DISTINCT FROM 'other_experiment'"""
    ).fetchall()
    return int(users)


def _hours(db: duckdb.DuckDBPyConnection) -> dict[str, float]:
    return dict(
        db.execute(
            """SELECT stage, least((epoch(max(last)) - epoch(min(first))) / 3600, 24 * count(DISTINCT hour::DATE))
            FROM judged WHERE left_out IS NULL GROUP BY stage"""
        ).fetchall()
    )


def _judged_models(db: duckdb.DuckDBPyConnection, experiment: Experiment) -> JudgedModels:
    rows = db.execute(
        """WITH answered AS (
            SELECT arm, digest, exploration, newest_decision AS place FROM cell
            WHERE coalesce(salt, $salt) = $salt AND assignment_probability < 1 AND newest_decision IS NOT NULL),
        newest AS (
            SELECT arm, arg_max(digest, place) FILTER (digest IS NOT NULL) AS newest,
                   arg_max(exploration, place) FILTER (exploration IS NOT NULL) AS explores
            FROM answered GROUP BY arm)
        SELECT arm, newest, max(place.decided) FILTER (digest <> newest OR exploration <> explores)
        FROM answered JOIN newest USING (arm) GROUP BY arm, newest ORDER BY arm""",
        {"salt": experiment.salt},
    ).fetchall()
    changes = [changed for _, _, changed in rows if changed is not None]
    return JudgedModels({arm: newest for arm, newest, _ in rows if newest is not None}, max(changes, default=None))


def _other_splits(db: duckdb.DuckDBPyConnection, experiment: Experiment) -> list[tuple[str, str]]:
    """List the stages at which the routers used other shares of the users than the experiment file has now.

    Each item has the stage, and the logged shares as JSON. Decisions without logged shares are ignored.
    """
    wanted = shares_of_stages(experiment)
    told = db.execute("SELECT DISTINCT stage, shares FROM cell WHERE shares IS NOT NULL").fetchall()
    return [(stage, text) for stage, text in told if stage in wanted and _differ(json.loads(text), wanted[stage])]


def _differ(shares: Mapping[str, float], others: Mapping[str, float]) -> bool:
    return any(abs(shares.get(arm, 0.0) - others.get(arm, 0.0)) >= 1e-9 for arm in {*shares, *others})


def _changed(experiment: Experiment) -> str:
    """Build an SQL condition for budget periods in which a change makes the arms incomparable.

    Without pacing, every change counts, because an arm that spends its budget early looks better until the change.
    """
    paced = all(budget.pacing is not None for budget in experiment.all_budgets if budget.period != "total")
    names = ("stage", "salt", "layer", *(() if paced else ("experiment_version",)))
    return " OR ".join([*(f"min({name}) <> max({name})" for name in names), "bool_or(split_otherwise)"])
