"""The users of an experiment: what each has added to every metric, in each stage and arm, read from the decision log.

Decisions count for the arm that the user was *assigned* to, fallbacks included: dropping them would compare the users
of whichever arm fails less. Left out, and counted by reason:

    other_experiment     of another experiment: another name, layer or salt, any of which splits the users anew
    outside              the user is not in the experiment's part of its layer
    not_randomised       everybody got the incumbent: kill switch, shadow
    other_model          before the arms had their newest models and exploration (`judged_models.py`)
    other_weights        assigned while any arm had another share than the experiment file gives it at that stage now:
                         so all arms are compared over the same time
    repeated             another decision on the same request and day counts: the last that exposes or else the first.
                         The slower an arm is, the more callers give up on it and ask another router. What came of
                         any of them counts with that one: such a caller knows, and reports of, the last
    immature             its outcomes may still come (`outcome_hours`): an arm whose outcomes come sooner looks better
                         until they have
    unfinished_period    the budget's day or hour is not over, or began before the period that is asked for: an arm that
                         spends sooner looks better until it is, and worse without its beginning
    changed_period       in that day or hour the stage, the weights, the salt or the layer were changed: the arms' money
                         was not the same. Where it isn't paced, after any edit: a raised amount gives more to the arm
                         that has spent more by then
    switched_off         in that day or hour the kill switch was used, for the same reason

The last three only where a budget starts anew each day or hour. People use the switch, or go back a stage, when an arm
does badly. So a verdict looks at both, with and without the decisions of the last two (`CHANGED`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, get_args

import pandas as pd

from monitoring.decision_log import DecisionLog, Period, database, open_records
from monitoring.judged_models import JudgedModels, judged_models
from mtorl.experiment.experiment import OUTSIDE, Experiment, Stage
from mtorl.experiment.metrics import COST, METRICS, column, gain_of, sums, total
from mtorl.log.gain import Gain
from mtorl.log.records import one_record_each

if TYPE_CHECKING:
    import duckdb


CHANGED = ("changed_period", "switched_off")
"""Reasons for which days or hours are left out that may have been bad ones."""


def shares_of_stages(experiment: Experiment) -> dict[str, dict[str, float]]:
    """Each arm's share of the users in every stage that randomises them, in the order of the ramp.

    A kill switch that is pulled now does not change how the users in the log were split.
    """
    stages = [stage for stage in get_args(Stage) if stage != "shadow"]
    return {stage: experiment.replace(enabled=True, stage=stage).shares() for stage in stages}


class ExperimentUsers(NamedTuple):
    """What a verdict is reached on."""

    rows: pd.DataFrame  # one a user, stage and arm, with the sums of its decisions, and how many outcomes came late
    left_out: dict[str, int]  # decisions, by reason
    models: JudgedModels
    hours: dict[str, float]  # of each stage: from its first decision that counts to the last, but a day at most for
    # each UTC day with any


def users_of(
    log: DecisionLog, experiment: Experiment, gain: Gain, changed: bool = False, segment: str = ""
) -> ExperimentUsers:
    """Add up the decisions that count.

    Both logs are delivered at least once, so of several records with one id the one that counts is taken. Of every
    metric that the experiment names, and of the cost, a row has the two sums; its gain is that of the primary metric.

    Args:
        log: Decisions and outcomes.
        experiment: The experiment that is judged.
        gain: What "gain_per_decision" means.
        changed: Whether decisions count that are left out as `CHANGED` else.
        segment: SQL of the segment of a `record`: rows are then one a user, stage, arm and `segment`.
    """
    with_segment, by_segment = (f"{segment} AS segment, ", ", segment") if segment else ("", "")
    names = tuple(dict.fromkeys((COST, *experiment.metrics.names)))
    outcomes = dict.fromkeys(kind for name in names if name not in METRICS for kind in gain_of(name, gain).names)
    with database() as db:
        open_records(db, "decision", log.decisions).create_view("decision_log")
        open_records(db, "outcome", log.outcomes).create_view("outcome_log")
        if isinstance(log.weights, pd.DataFrame):
            db.register("weight_of", log.weights)
        elif log.weights is not None:
            db.from_parquet(str(log.weights)).create_view("weight_of")
        weight = "coalesce(weight_of.weight, 0.0)" if log.weights is not None else "1.0"
        join = "LEFT JOIN weight_of USING (decision_id)" if log.weights is not None else ""
        shares = [
            (stage, arm, share) for stage, arms in shares_of_stages(experiment).items() for arm, share in arms.items()
        ]
        db.register("share_of", pd.DataFrame(shares, columns=["stage", "arm", "share"]))
        _find_repeats(db, log.period)
        db.register("other_split", pd.DataFrame(_other_splits(db, experiment), columns=["stage", "shares"], dtype=str))
        decision = f"""record AS (
            SELECT record.* EXCLUDE (event_time), {weight} AS weight, CAST(event_time AS TIMESTAMPTZ) AS decided,
                   {with_segment} (stage, shares) IN (FROM other_split) AS split_otherwise,
                   opportunity IS NOT NULL AS repeated
            FROM ({one_record_each("decision", "decision_log")}) AS record {join} LEFT JOIN repeat USING (decision_id)
            WHERE {log.period.condition()}),
        decision AS (
            SELECT record.*,
                   CASE WHEN experiment <> $name OR salt <> $salt OR layer <> $layer THEN 'other_experiment'
                        WHEN arm = '{OUTSIDE}' THEN 'outside'
                        WHEN assignment_probability >= 1 THEN 'not_randomised'
                        WHEN {_begin(experiment)} <= $models_changed THEN 'other_model'
                        WHEN split_otherwise OR coalesce(abs(assignment_probability - share) >= 1e-9, true)
                        THEN 'other_weights'
                        WHEN repeated THEN 'repeated' ELSE {_unfair_period(experiment, changed)} END AS left_out
            FROM record LEFT JOIN share_of USING (stage, arm))"""
        models = judged_models(db, experiment, log.period)
        parameters = {
            "name": experiment.name,
            "salt": experiment.salt,
            "layer": experiment.layer,
            "models_changed": models.since,
            **log.period.parameters(),
        }
        reasons = db.execute(
            f"""WITH {decision}
            SELECT left_out, if(left_out IS NULL, stage, NULL) AS counted, count(*),
                   least((epoch(max(decided)) - epoch(min(decided))) / 3600, 24 * count(DISTINCT decided::DATE))
            FROM decision GROUP BY left_out, counted ORDER BY 1, 2""",
            parameters,
        ).fetchall()
        pivot = ", ".join(f"sum(value) FILTER (in_time AND kind = '{kind}') AS {column(kind)}" for kind in outcomes)
        known = ", ".join(f"coalesce({column(kind)}, 0) AS {column(kind)}" for kind in outcomes)
        ages = {
            f'"{age}:{kind}"': f"{test} AND kind = '{kind}'"
            for kind in outcomes
            for age, test in (("in_time", "in_time"), ("late", "NOT in_time"))
        }
        aged = ", ".join(f"sum(abs(value)) FILTER ({test}) AS {age}" for age, test in ages.items())
        totals = f"sum({total(gain_of(experiment.metrics.primary, gain))}) AS gain, sum({column('cost')}) AS cost"
        users = db.execute(
            f"""WITH {decision}, taken AS (
                SELECT decision_id, min(CAST(event_time AS TIMESTAMPTZ)) AS taken FROM decision_log GROUP BY ALL),
            event AS (
                SELECT coalesce(opportunity, decision_id) AS decision_id, kind, value,
                       greatest(CAST(event_time AS TIMESTAMPTZ), CAST(received_time AS TIMESTAMPTZ))
                           <= {_matures(experiment, "taken")} AS in_time
                FROM ({one_record_each("outcome", "outcome_log")}) JOIN taken USING (decision_id)
                     LEFT JOIN repeat USING (decision_id)),
            outcome AS (SELECT decision_id, {pivot}, {aged}, count_if(NOT in_time) AS late
                        FROM event GROUP BY decision_id),
            decision_with_outcomes AS (
                SELECT decision.*, {known}, {", ".join(ages)}, coalesce(late, 0) AS late
                FROM decision LEFT JOIN outcome USING (decision_id) WHERE left_out IS NULL)
            SELECT user_id, stage, arm{by_segment}, count(*)::DOUBLE AS decisions,
                   count_if(weight > 0)::DOUBLE AS evaluable,
                   count_if(expose)::DOUBLE AS exposures, count_if(fallback_reason IS NOT NULL)::DOUBLE AS fallbacks,
                   {totals}, {", ".join(f"coalesce(sum({age}), 0)::DOUBLE AS {age}" for age in ages)},
                   sum(late) AS late, sum(weight) AS weight, sum(weight * weight) AS squared_weight,
                   {sums(names, gain)},
                   min(decided) AS first_at
            FROM decision_with_outcomes GROUP BY user_id, stage, arm{by_segment}""",
            parameters,
        ).df()
    left_out = {reason: count for reason, _, count, _ in reasons if reason is not None}
    return ExperimentUsers(users, left_out, models, {stage: hours for reason, stage, _, hours in reasons if not reason})


def _find_repeats(db: duckdb.DuckDBPyConnection, period: Period) -> None:
    """Make the table `repeat`: decisions that don't count, and the `opportunity`, the decision that does instead."""
    at = "CAST(event_time AS TIMESTAMPTZ)"
    db.execute(
        f"""CREATE TEMP TABLE repeat AS SELECT decision_id, opportunity FROM (
            SELECT decision_id, first_value(decision_id) OVER (
                       PARTITION BY hash(experiment, salt, user_id, campaign_id, request_id, {at}::DATE)
                       ORDER BY expose DESC, epoch({at}) * if(expose, -1, 1), decision_id) AS opportunity
            FROM ({one_record_each("decision", "decision_log")}) AS record
            WHERE request_id IS NOT NULL AND {period.condition()})
        WHERE opportunity <> decision_id""",
        period.parameters(),
    )


def _other_splits(db: duckdb.DuckDBPyConnection, experiment: Experiment) -> list[tuple[str, str]]:
    """Stages and shares, as decisions tell them, that are not those of the experiment file; older ones tell none."""
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
    """SQL: when the budget period of a decision began, and when it ends; None if no budget has one.

    A campaign's decisions go by the longest period of the budgets that they draw on. Without any, a decision is a
    period of its own.
    """
    timed = [budget for budget in experiment.budgets if budget.period != "total"]
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
        f"(CASE {' '.join(f'WHEN campaign_id = {_text(name)} THEN {both[i]}' for name, both in own.items())} "
        f"ELSE {others[i]} END)"
        if own
        else f"({others[i]})"
        for i in (0, 1)
    )
    return begin, end


def _text(value: str) -> str:
    """A text in SQL."""
    return "'" + value.replace("'", "''") + "'"


def _begin(experiment: Experiment) -> str:
    """SQL: when the budget period of a decision began; its own time if no budget has one."""
    bounds = _bounds(experiment)
    return "decided" if bounds is None else bounds[0]


def _matures(experiment: Experiment, time: str) -> str:
    """SQL: when the outcomes of a decision of that time are all known, as far as they count."""
    hours = experiment.metrics.outcome_hours
    return "'infinity'::TIMESTAMPTZ" if hours is None else f"({time} + to_microseconds({round(hours * 3.6e9)}))"


def _unfair_period(experiment: Experiment, changed: bool) -> str:
    """SQL: why a decision, or the budget period that it belongs to, does not count yet or at all; NULL if it does.

    A total without an end has no whole periods: where it isn't paced, an arm that spends sooner looks better until the
    other has spent as much.
    """
    bounds = _bounds(experiment)
    # The period that is asked for may have no end, or end in the future, where a clock that was ahead has decided, too.
    newest = "least(greatest(max(decided) OVER (), CAST(nullif($until, '') AS TIMESTAMPTZ)), now())"
    begin, end = bounds or ("decided", "decided")
    cases = []
    if experiment.metrics.outcome_hours is not None:
        cases.append(f"WHEN {_matures(experiment, end)} > {newest} THEN 'immature'")
    if bounds is not None:
        in_period = f"(PARTITION BY experiment, {begin})"
        paced = all(budget.pacing is not None for budget in experiment.budgets if budget.period != "total")
        names = ("stage", "salt", "layer", *(() if paced else ("experiment_version",)))
        changes = [f"min({name}) OVER {in_period} <> max({name}) OVER {in_period}" for name in names]
        changes.append(f"bool_or(coalesce(split_otherwise, false)) OVER {in_period}")
        unfinished = f"{end} > {newest} OR {begin} < CAST(nullif($since, '') AS TIMESTAMPTZ)"
        cases.insert(0, f"WHEN {unfinished} THEN 'unfinished_period'")
        if not changed:
            off = f"coalesce(bool_or(stage = 'off') OVER {in_period}, false)"
            cases += [f"WHEN {off} THEN 'switched_off'", f"WHEN {' OR '.join(changes)} THEN 'changed_period'"]
    return f"CASE {' '.join(cases)} END" if cases else "NULL"
