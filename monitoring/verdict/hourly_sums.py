"""Reduces the decisions of an experiment to sums for each user and hour, and to counts for each hour.

    reduce_hours(db, log, experiment, kinds)        # the tables below

| table | a row for each | columns |
|---|---|---|
| `cell` | hour and kind of decision | properties by which decisions count: settings, models, budget period; times |
| `user_sum` | user and cell of decisions that may count, or be overridden | `hour`; the columns of metrics |
| `named` | hour and user whose arm the experiment's file named | `since`, the hour |
| `activity` | minute, stage, arm and channel, and whether the arm was drawn, or named | counts, times, latencies |
| `spent` | quarter of an hour, arm, campaign and channel | `cost`, including overridden users |
| `other` | hour | number and newest time of other experiments' decisions |

The rows of an hour depend on no other hour, so a closed hour is reduced once (`stored_sums.py`). Therefore a request
that is repeated in the next hour is another opportunity. Conditions that depend on later hours (the newest model, days
that are not over, outcomes that may still arrive) are evaluated by cell, not by decision (`counted_decisions.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

import pandas as pd

from monitoring.decision_log import DecisionLog
from mtorl.experiment.arm import OUTSIDE, OVERRIDE
from mtorl.experiment.budget import Budget
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.metrics import DECISION_COLUMNS, DECISIONS, WEIGHT, column, late_column
from mtorl.log.decision_ids import TIME
from mtorl.log.records import MODEL_NAME
from mtorl.runtime.sql import sql_name, sql_text

if TYPE_CHECKING:
    import duckdb

# SQL text of the share and scope of a policy's random decisions.
_EXPLORATION = "CASE WHEN fallback_reason IS NULL THEN concat_ws(' ', exploration->>'share', exploration->>'scope') END"
_SETTING = {
    **{name: name for name in ("salt", "layer", "experiment_version", "stage", "arm", "assignment_probability")},
    "shares": "shares",
    "digest": MODEL_NAME,
    "exploration": _EXPLORATION,
}
"""SQL for the properties of a decision that do not depend on its user. A log has only few combinations of these
properties."""
_RANDOMISED = f"assignment_probability < 1 AND arm <> '{OUTSIDE}'"


def reduce_hours(
    db: duckdb.DuckDBPyConnection, log: DecisionLog, experiment: Experiment, kinds: Iterable[str], segment: str = ""
) -> None:
    """Create the tables that are listed at the top of this module.

    Each step keeps only the columns that later steps need, to save memory.

    Args:
        segment: SQL expression for the segment of a decision; "" for no segments.
    """
    _copy_records(db, log, experiment, segment or "NULL")
    _find_repeats(db)
    db.execute(
        """CREATE TABLE cell AS
        SELECT * EXCLUDE (setting) FROM (
            SELECT cell, any_value(setting) AS setting, any_value(hour) AS hour, any_value(began) AS began,
                   any_value(ends) AS ends, bool_or(overridden) AS overridden, opportunity IS NOT NULL AS repeated,
                   count(*) AS decisions, min(decided) AS first, max(decided) AS last,
                   max({'decided': decided, 'decision': decision}) FILTER (decided <= now()) AS newest_decision
            FROM record LEFT JOIN repeat USING (decision) GROUP BY cell, repeated) JOIN setting USING (setting)"""
    )
    kinds = tuple(kinds)
    _add_up_users(db, experiment, kinds, user_columns(kinds, log.weights is not None)[0])
    db.execute(
        """CREATE TABLE activity AS
        SELECT hour, date_trunc('minute', decided) AS minute, stage, arm, channel, randomised,
               NOT (withdrawn OR overridden) AND (randomised OR stage = 'shadow') AS counts,
               count(*) AS decisions, count_if(expose) AS exposures, count_if(fallback_reason IS NOT NULL) AS fallbacks,
               count(*) FILTER (fallback_reason = 'ledger') AS unpaid,
               min(decided) AS first, max(decided) AS last, histogram(round(latency_seconds, 3)) AS latencies
        FROM record JOIN setting USING (setting) WHERE salt = $salt GROUP BY ALL""",
        {"salt": experiment.salt},
    )
    db.execute(
        f"""CREATE TABLE spent AS
        SELECT hour, time_bucket(INTERVAL 15 MINUTE, decided) AS since, if(override, '{OVERRIDE}', arm) AS arm,
               campaign_id, channel, sum(value) AS cost
        FROM (SELECT hash(decision_id) AS decision, value FROM outcome_log WHERE kind = 'cost')
             JOIN record USING (decision) JOIN setting USING (setting)
        WHERE salt = $salt AND NOT withdrawn GROUP BY ALL""",
        {"salt": experiment.salt},
    )
    db.execute("DROP TABLE record; DROP TABLE repeat; DROP TABLE setting")


def _copy_records(db: duckdb.DuckDBPyConnection, log: DecisionLog, experiment: Experiment, segment: str) -> None:
    """Create the tables `record` (one row for each decision) and `setting`.

    The columns `unit` and `decision` are hashes of ids, because joins on 8-byte numbers are faster.
    """
    name = {"name": experiment.name}
    own = "coalesce(experiment, $name) = $name"
    db.execute(
        f"""CREATE TABLE overridden AS
        SELECT hash(user_id) AS unit, date_trunc('hour', {TIME}) AS hour, min({TIME}) AS since FROM decision_log
        WHERE override AND experiment = $name AND coalesce(salt, $salt) = $salt GROUP BY ALL""",
        {**name, "salt": experiment.salt},
    )
    db.execute("CREATE TABLE named AS SELECT unit, hour AS since FROM overridden")
    weight, join = "1.0", ""
    if log.weights is not None:
        db.register("weight_of", log.weights)
        weight, join = "coalesce(weight_of.weight, 0.0)", "LEFT JOIN weight_of USING (decision_id)"
    each = f"(SELECT *, event_time AS decided FROM decision_log WHERE {log.period.condition()})"
    db.execute(
        f"""CREATE TABLE other AS
        SELECT date_trunc('hour', {TIME}) AS hour, count(*) AS decisions, max(decided) AS last
        FROM {each} WHERE NOT {own} GROUP BY ALL""",
        name,
    )
    setting = f"hash({', '.join(_SETTING.values())})"
    columns = ", ".join(f"{sql} AS {of}" for of, sql in _SETTING.items())
    db.execute(
        f"""CREATE TABLE setting AS
        SELECT DISTINCT {setting} AS setting, {columns} FROM {each} WHERE {own}""",
        name,
    )
    periods = budget_periods(experiment)
    own_periods = [(campaign, " ".join(of)) for campaign, of in periods.items() if campaign != "*"]
    db.register("campaign_period", pd.DataFrame(own_periods, columns=["campaign_id", "budget_period"], dtype=str))
    began, ends = (_period_bound(periods, later) for later in (False, True))
    db.execute(
        f"""CREATE TABLE record AS
        SELECT *, hash(hour, setting, began, ends, overridden) AS cell FROM (
            SELECT hash(decision_id) AS decision, hash(user_id) AS unit, {setting} AS setting, campaign_id, channel,
                   withdrawn, override, expose, fallback_reason, latency_seconds, {weight} AS weight, decided,
                   {TIME} AS taken, date_trunc('hour', taken) AS hour, {began} AS began, {ends} AS ends,
                   {_RANDOMISED} AS randomised, coalesce(taken >= since, false) AS overridden,
                   -- Requests of users with an override are not compared with earlier requests.
                   if(request_id IS NULL OR taken >= since, NULL,
                      hash(salt, user_id, campaign_id, request_id, date_trunc('hour', taken))) AS request,
                   ({segment})::VARCHAR AS segment
            FROM {each} AS record {join}
                 LEFT JOIN (SELECT unit AS its_unit, hour AS its_hour, since FROM overridden)
                      ON its_unit = hash(user_id) AND its_hour = date_trunc('hour', {TIME})
                 LEFT JOIN campaign_period USING (campaign_id) WHERE {own})""",
        name,
    )
    db.execute("DROP TABLE overridden")


def _find_repeats(db: duckdb.DuckDBPyConnection) -> None:
    """Create the table `repeat`, which maps repeated decisions to the counted decision of the same request."""
    db.execute(
        """CREATE TABLE repeat AS SELECT decision, opportunity, taken FROM (
            SELECT decision, taken, first_value(decision) OVER (
                       PARTITION BY request
                       ORDER BY expose DESC, epoch(decided) * if(expose, -1, 1), decision) AS opportunity
            FROM record WHERE request IN (SELECT request FROM record GROUP BY request HAVING count(*) > 1))
        WHERE opportunity <> decision"""
    )


_DECISION_COLUMNS = {**DECISION_COLUMNS, "evaluable": "(weight > 0)::INT", "squared_weight": "weight * weight"}


def _outcome_columns(kind: str) -> dict[str, tuple[str, str]]:
    """Return a kind of outcome's columns, each with SQL of its value and condition."""
    return {
        column(kind): ("weight * value", "in_time"),
        f"plain:{kind}": ("value", "in_time"),
        late_column(kind): ("weight * value", "NOT in_time"),
    }


def user_columns(kinds: Iterable[str], weighted: bool) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the columns of `user_sum` that metrics need, and the columns that would equal one of them."""
    names = [*_DECISION_COLUMNS, *(name for kind in kinds for name in _outcome_columns(kind))]
    same = {} if weighted else dict.fromkeys((WEIGHT, "evaluable", "squared_weight"), DECISIONS)
    same |= {} if weighted else {f"plain:{kind}": column(kind) for kind in kinds}
    return tuple(name for name in names if name not in same), same


def _add_up_users(
    db: duckdb.DuckDBPyConnection, experiment: Experiment, kinds: tuple[str, ...], names: Collection[str]
) -> None:
    """Create the table `user_sum`, whose decisions and outcomes have separate rows."""
    each = {name: sql for name, sql in _DECISION_COLUMNS.items() if name in names}
    of_decisions = ", ".join(f"sum({sql})::DOUBLE AS {name}" for name, sql in each.items())
    of_outcomes = "".join(
        f", sum({value}) FILTER ({when} AND kind = {sql_text(kind)}) AS {sql_name(name)}"
        for kind in kinds
        for name, (value, when) in _outcome_columns(kind).items()
        if name in names
    )
    kept = "(FROM record ANTI JOIN repeat USING (decision) WHERE randomised OR overridden)"
    db.execute(
        f"""CREATE TABLE user_sum AS
        SELECT unit, cell, segment, any_value(hour) AS hour, {of_decisions}
        FROM {kept} GROUP BY unit, cell, segment
        UNION ALL BY NAME
        SELECT unit, cell, segment, any_value(hour) AS hour, count_if(NOT in_time)::DOUBLE AS late{of_outcomes} FROM (
            SELECT unit, cell, segment, counted.hour, weight, kind, value,
                   greatest(event_time, received_time)
                       <= {matures(experiment, "coalesce(repeat.taken, counted.taken)")} AS in_time
            FROM (SELECT *, hash(decision_id) AS decision FROM outcome_log) AS outcome
                 LEFT JOIN repeat USING (decision)
                 JOIN {kept} AS counted ON counted.decision = coalesce(opportunity, outcome.decision))
        GROUP BY unit, cell, segment"""
    )


def budget_periods(experiment: Experiment) -> dict[str, tuple[str, str]]:
    """Return the budget period and time zone of each campaign; "*" stands for all other campaigns.

    If a campaign's budgets have different periods, the longest period is returned.
    """
    timed: dict[str, list[Budget]] = {}
    for budget in experiment.all_budgets:
        if budget.period != "total":
            timed.setdefault(budget.campaign, []).append(budget)
    found = {}
    for campaign, own in timed.items():
        # Of two budgets with the same period, the campaign's own budget defines the time zone.
        longest = min([*own, *timed.get("*", ())], key=lambda each: (each.period != "day", each.campaign == "*"))
        found[campaign] = longest.period, longest.timezone
    return found


def _period_bound(periods: Mapping[str, tuple[str, str]], later: bool) -> str:
    cases = []
    for period, zone in sorted(set(periods.values())):
        local = f"date_trunc('{period}', decided AT TIME ZONE '{zone}')"
        at = f"{local} + INTERVAL 1 {period}" if later else local
        cases.append(f"WHEN '{period} {zone}' THEN ({at}) AT TIME ZONE '{zone}'")
    of_others = " ".join(periods.get("*", ()))
    return f"CASE coalesce(budget_period, '{of_others}') {' '.join(cases)} END" if cases else "NULL::TIMESTAMPTZ"


def matures(experiment: Experiment, time: str) -> str:
    """Return an SQL expression for the time after which an outcome is late, given the SQL of the decision's time."""
    hours = experiment.metrics.outcome_hours
    return "'infinity'::TIMESTAMPTZ" if hours is None else f"({time} + to_microseconds({round(hours * 3.6e9)}))"
