"""Collects the evidence that decides whether an experiment may leave its present stage.

The verdict uses the decisions of all stages. Users, fallbacks and latency are those of the present stage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from monitoring.decision_log import DecisionLog, Period
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.inference.verdict import breach
from mtorl.experiment.stage_machine import ArmEvidence, Evidence
from mtorl.runtime.message import Message, prefixed

if TYPE_CHECKING:
    import duckdb

# For this long after the start of a stage, the ledger may refuse money, because it has not opened the accounts yet.
_FOLLOWED_SECONDS = 5.0


def stage_evidence(
    db: duckdb.DuckDBPyConnection, log: DecisionLog, experiment: Experiment, since: float, verdict: Mapping[str, Any]
) -> Evidence:
    """Collect the evidence about the present stage, which began at `since`, in seconds since 1970."""
    if experiment.stage == "shadow":
        arms = arms_in_shadow(log, experiment, since)
    else:
        counted = verdict["users_of_stages"].get(experiment.stage, {})
        arms = {
            name: ArmEvidence(counted.get(name, 0), *faults)
            for name, faults in faults_at_stage(db, experiment.stage, since).items()
        }
    breached = tuple(
        prefixed(arm.name, breach(check["name"], check["lower"], check["margin"]))
        for arm in experiment.arms
        # An arm with weight 0 gets no users, so its guardrails are ignored.
        if arm.name in verdict["challengers"] and arm.weight > 0
        for check in verdict["challengers"][arm.name]["guardrails"]
        if check["state"] == "breached"
    )
    effect = {name: verdict[name] for name in ("users", "lift", "lift_ci")}
    reason = Message(verdict["reason"], verdict["code"], verdict["values"])
    return Evidence(verdict["verdict"], reason, verdict["challenger"], breached, arms, effect)


def faults_at_stage(db: duckdb.DuckDBPyConnection, stage: str, since: float) -> dict[str, tuple[float, float]]:
    """Return each arm's share of fallbacks, and 99th percentile of latency in seconds, since the stage began."""
    rows = db.execute(
        """WITH arm_activity AS (FROM activity WHERE counts AND stage = $stage AND last >= $start),
        latency AS (
            SELECT arm, each.key AS seconds, sum(each.value) AS decisions
            FROM (SELECT arm, unnest(map_entries(latencies)) AS each FROM arm_activity) GROUP BY ALL),
        late AS (
            SELECT arm, min(seconds) AS seconds FROM (
                SELECT *, sum(decisions) OVER (PARTITION BY arm ORDER BY seconds) AS below,
                       sum(decisions) OVER (PARTITION BY arm) AS decisions_of_arm FROM latency)
            WHERE below >= 0.99 * decisions_of_arm GROUP BY arm)
        SELECT arm, sum(fallbacks - if(first < $followed, unpaid, 0)) / sum(decisions), any_value(seconds)
        FROM arm_activity LEFT JOIN late USING (arm) GROUP BY arm""",
        {
            "stage": stage,
            "start": datetime.fromtimestamp(since, UTC),
            "followed": datetime.fromtimestamp(since + _FOLLOWED_SECONDS, UTC),
        },
    ).fetchall()
    return {arm: (ratio, math.nan if late is None else late) for arm, ratio, late in rows}


def arms_in_shadow(log: DecisionLog, experiment: Experiment, since: float) -> dict[str, ArmEvidence]:
    """Return each arm's number of users and share of failures since the stage `shadow` began.

    The latency is known only for the incumbent.
    """
    start = datetime.fromtimestamp(since, UTC)
    with replace(log, period=Period(start, log.period.until)).opened("shadow", near=True) as db:
        rows = db.execute(
            """WITH decision AS (
                SELECT decision_id, user_id, arm, latency_seconds, fallback_reason IS NOT NULL AS fault
                FROM decision_log
                WHERE experiment = $name AND salt = $salt AND stage = 'shadow' AND event_time >= $start
                      AND NOT (withdrawn OR override))
            SELECT arm, count(DISTINCT user_id), avg(fault::INT), quantile_cont(latency_seconds, 0.99)
            FROM decision GROUP BY arm
            UNION ALL SELECT s.arm, count(DISTINCT user_id), avg((s.fault IS NOT NULL)::INT), NULL
            FROM shadow_log AS s JOIN decision USING (decision_id) WHERE s.experiment = $name GROUP BY s.arm""",
            {"name": experiment.name, "salt": experiment.salt, "start": start},
        ).fetchall()
    return {arm: ArmEvidence(users, ratio, math.nan if late is None else late) for arm, users, ratio, late in rows}
