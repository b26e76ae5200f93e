"""Selects the decisions of an experiment that count, and counts the others by reason (monitoring/README.md).

Decisions count for the arm that the user was *assigned* to, fallbacks included: dropping them would compare the users
of the arm that fails less. People use the kill switch, or go back a stage, when an arm does badly. So a verdict looks
at both, with and without the decisions of the last two reasons (`CHANGED`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, get_args

import pandas as pd

from monitoring.decision_log import DecisionLog, find_overridden, one_record_each_of_few_copies
from monitoring.verdict.judged_models import EXPLORATION, JudgedModels, judged_models
from mtorl.experiment.arm import HOLDOUT, OUTSIDE
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.stages import Stage
from mtorl.log.decision_ids import TIME
from mtorl.log.records import MODEL_NAME

if TYPE_CHECKING:
    import duckdb


CHANGED = ("changed_period", "switched_off")  # reasons for which days or hours are left out that may have been bad ones


def shares_of_stages(experiment: Experiment) -> dict[str, dict[str, float]]:
    """Each arm's share of the users in every stage that randomises them, in the order of the ramp.

    The present kill switch does not change how the users in the log were split.
    """
    stages = [stage for stage in get_args(Stage) if stage != "shadow"]
    return {stage: experiment.replace(enabled=True, stage=stage, promotion=None).shares() for stage in stages}


class CountedDecisions(NamedTuple):
    """The content of the tables `decision` and `repeat`."""

    left_out: dict[str, int]  # decisions, by reason
    models: JudgedModels
    overridden: int  # users of whom decisions are left out because the file names, or named, their arm
    hours: dict[str, float]  # of each stage: from its first decision that counts to the last, but a day at most for
    # each UTC day with any


def count_decisions(
    db: duckdb.DuckDBPyConnection, log: DecisionLog, experiment: Experiment, segment: str = ""
) -> CountedDecisions:
    """Make the tables `decision`, those of the period, and `repeat`.

    Of `decision`, those count whose `left_out` is null. A `repeat` does not count; its `opportunity` is the decision
    that does instead. Each table is made by itself, with only what the next one needs: together, these sorts and joins
    would be in memory at one time.

    Args:
        segment: SQL of the segment of a `record`; empty: it has none.
    """
    find_overridden(db, experiment.name, experiment.salt)
    _copy_records(db, log, experiment, segment or "NULL")
    models = judged_models(db, experiment)
    _find_repeats(db)
    shares = [
        (stage, arm, share) for stage, arms in shares_of_stages(experiment).items() for arm, share in arms.items()
    ]
    db.register("share_of", pd.DataFrame(shares, columns=["stage", "arm", "share"]))
    db.execute(
        f"""CREATE TABLE budget_period AS
        SELECT experiment AS of, began AS start, bool_or(stage = 'off') AS off, {_changed(experiment)} AS changed
        FROM record WHERE began < ends GROUP BY experiment, began"""
    )
    db.execute(
        f"""CREATE TABLE decision AS
        WITH look AS (
            -- The period may have no end, or end in the future, where a clock that was ahead has decided, too.
            SELECT least(greatest(max(decided), CAST(nullif($until, '') AS TIMESTAMPTZ)), now()) AS newest,
                   CAST(nullif($since, '') AS TIMESTAMPTZ) AS since FROM record)
        SELECT decision_id, unit, segment, stage, arm, weight, expose, fallback_reason, latency_seconds, decided, taken,
               CASE WHEN experiment <> $name OR salt <> $salt OR layer <> $layer THEN 'other_experiment'
                    WHEN overridden THEN 'override'
                    WHEN arm IN ('{OUTSIDE}', '{HOLDOUT}') THEN arm
                    WHEN assignment_probability >= 1 THEN 'not_randomised'
                    WHEN began <= $models_changed THEN 'other_model'
                    WHEN split_otherwise OR coalesce(abs(assignment_probability - share) >= 1e-9, true)
                    THEN 'other_weights'
                    WHEN opportunity IS NOT NULL THEN 'repeated' {_unfair_period(experiment)} END AS left_out
        FROM record LEFT JOIN share_of USING (stage, arm) LEFT JOIN repeat USING (decision_id)
             LEFT JOIN budget_period ON experiment IS NOT DISTINCT FROM of AND began = start CROSS JOIN look""",
        {
            "name": experiment.name,
            "salt": experiment.salt,
            "layer": experiment.layer,
            "models_changed": models.since,
            **log.period.parameters(),
        },
    )
    db.execute("DROP TABLE record")
    reasons = db.execute(
        """SELECT left_out, if(left_out IS NULL, stage, NULL) AS counted, count(*),
                  least((epoch(max(decided)) - epoch(min(decided))) / 3600, 24 * count(DISTINCT decided::DATE))
        FROM decision GROUP BY left_out, counted ORDER BY 1, 2"""
    ).fetchall()
    ((overridden,),) = db.execute("SELECT count(DISTINCT unit) FROM decision WHERE left_out = 'override'").fetchall()
    return CountedDecisions(
        overridden=overridden,
        left_out={reason: count for reason, _, count, _ in reasons if reason is not None},
        models=models,
        hours={stage: hours for reason, stage, _, hours in reasons if reason is None},
    )


def _copy_records(db: duckdb.DuckDBPyConnection, log: DecisionLog, experiment: Experiment, segment: str) -> None:
    """Make the table `record`: of each decision of the period what the next steps need.

    A `unit` is the hash of a user, and a `decision_id` here that of a decision: each takes 8 bytes, which saves time in
    joins, and of ten million no two have the same, but once in 400,000 logs.
    """
    if isinstance(log.weights, pd.DataFrame):
        db.register("weight_of", log.weights)
    elif log.weights is not None:
        db.from_parquet(str(log.weights)).create_view("weight_of")
    weight = "coalesce(weight_of.weight, 0.0)" if log.weights is not None else "1.0"
    join = "LEFT JOIN weight_of USING (decision_id)" if log.weights is not None else ""
    db.register("other_split", pd.DataFrame(_other_splits(db, experiment), columns=["stage", "shares"], dtype=str))
    began, ends = _bounds(experiment) or ("decided", "decided")
    db.execute(
        f"""CREATE TABLE record AS
        WITH each AS (
            SELECT *, CAST(event_time AS TIMESTAMPTZ) AS decided
            FROM ({one_record_each_of_few_copies(db, "decision", "decision_log")}) WHERE {log.period.condition()})
        SELECT hash(decision_id) AS decision_id, hash(user_id) AS unit, experiment, salt, layer, experiment_version,
               stage, arm,
               assignment_probability, expose, fallback_reason, latency_seconds, {weight} AS weight, decided,
               {TIME} AS taken, {began} AS began, {ends} AS ends,
               coalesce(taken >= since, false) AS overridden,
               (stage, shares) IN (FROM other_split) AS split_otherwise,
               {MODEL_NAME} AS digest, {EXPLORATION} AS exploration,
               if(request_id IS NULL OR taken >= since, NULL,  -- who tries it out repeats no earlier request
                  hash(experiment, salt, user_id, campaign_id, request_id, decided::DATE)) AS request,
               ({segment})::VARCHAR AS segment
        FROM each AS record {join} LEFT JOIN overridden USING (user_id)""",
        log.period.parameters(),
    )


def _find_repeats(db: duckdb.DuckDBPyConnection) -> None:
    """Make the table `repeat`; few requests are repeated, and only those are sorted."""
    db.execute(
        """CREATE TABLE repeat AS SELECT decision_id, opportunity FROM (
            SELECT decision_id, first_value(decision_id) OVER (
                       PARTITION BY request
                       ORDER BY expose DESC, epoch(decided) * if(expose, -1, 1), decision_id) AS opportunity
            FROM record WHERE request IN (SELECT request FROM record GROUP BY request HAVING count(*) > 1))
        WHERE opportunity <> decision_id"""
    )


def _other_splits(db: duckdb.DuckDBPyConnection, experiment: Experiment) -> list[tuple[str, str]]:
    """Stages and shares of decisions that differ from the experiment file's; older decisions lack shares."""
    wanted = shares_of_stages(experiment)
    told = db.execute(
        """SELECT DISTINCT stage, shares
        FROM (FROM decision_log UNION ALL BY NAME SELECT NULL::VARCHAR AS shares WHERE false)
        WHERE experiment = $name AND shares IS NOT NULL""",
        {"name": experiment.name},
    ).fetchall()
    return [(stage, text) for stage, text in told if stage in wanted and _differ(json.loads(text), wanted[stage])]


def _differ(shares: Mapping[str, float], others: Mapping[str, float]) -> bool:
    return any(abs(shares.get(arm, 0.0) - others.get(arm, 0.0)) >= 1e-9 for arm in {*shares, *others})


def _bounds(experiment: Experiment) -> tuple[str, str] | None:
    """SQL of the start and end of a decision's budget period; None if no budget has one.

    A campaign's decisions go by the longest period of the budgets that they draw on. Without any, a decision is a
    period of its own.
    """
    timed = [budget for budget in experiment.all_budgets if budget.period != "total"]
    if not timed:
        return None

    def bounds(campaign: str) -> tuple[str, str]:
        drawn_on = [budget for budget in timed if budget.campaign in (campaign, "*")]
        if not drawn_on:
            return "decided", "decided"
        # Of two zones, the campaign's own.
        budget = min(drawn_on, key=lambda budget: (budget.period != "day", budget.campaign == "*"))
        local = f"date_trunc('{budget.period}', decided AT TIME ZONE '{budget.timezone}')"
        began, ends = local, f"{local} + INTERVAL 1 {budget.period}"
        return f"({began}) AT TIME ZONE '{budget.timezone}'", f"({ends}) AT TIME ZONE '{budget.timezone}'"

    others = bounds("*")
    own = {budget.campaign: bounds(budget.campaign) for budget in timed if budget.campaign != "*"}
    begin, end = (
        f"(CASE {' '.join(f'WHEN campaign_id = {sql_text(name)} THEN {both[i]}' for name, both in own.items())} "
        f"ELSE {others[i]} END)"
        if own
        else f"({others[i]})"
        for i in (0, 1)
    )
    return begin, end


def sql_text(value: str) -> str:
    """A text in SQL."""
    return "'" + value.replace("'", "''") + "'"


def matures(experiment: Experiment, time: str) -> str:
    """SQL of the time at which all outcomes that count of a decision of that time are known."""
    hours = experiment.metrics.outcome_hours
    return "'infinity'::TIMESTAMPTZ" if hours is None else f"({time} + to_microseconds({round(hours * 3.6e9)}))"


def _changed(experiment: Experiment) -> str:
    """SQL: whether a change within a budget period made the arms' money differ."""
    paced = all(budget.pacing is not None for budget in experiment.all_budgets if budget.period != "total")
    names = ("stage", "salt", "layer", *(() if paced else ("experiment_version",)))
    return " OR ".join([*(f"min({name}) <> max({name})" for name in names), "bool_or(split_otherwise)"])


def _unfair_period(experiment: Experiment) -> str:
    """SQL: cases in which a decision, or its budget period, does not count yet or at all.

    A total without an end has no whole periods: without pacing, an arm that spends sooner looks better until the other
    has spent as much.
    """
    cases = []
    if _bounds(experiment) is not None:
        cases.append("WHEN ends > newest OR began < since THEN 'unfinished_period'")
    if experiment.metrics.outcome_hours is not None:
        cases.append(f"WHEN {matures(experiment, 'ends')} > newest THEN 'immature'")
    return " ".join([*cases, "WHEN off THEN 'switched_off'", "WHEN changed THEN 'changed_period'"])
