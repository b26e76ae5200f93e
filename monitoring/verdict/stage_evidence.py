"""Evidence from the decision log about an experiment's present stage, for the stage machine.

    evidence = stage_evidence(log, experiment, state.since, verdict)      # the experiment as it is in force
    consider(definition, state, evidence, now)                                 # mtorl.experiment.stage_machine

The verdict and its breached guardrails are those of the whole ramp (`verdict.py`). An arm's users are those of the
present stage that count in the verdict: before there are any, no guardrail can be breached. Fallbacks and latency are
those of all its decisions since the stage began, but for a user's since the file first named its arm. A change of the
stage is no fault of an arm: until the ledger has its accounts, a second or two, an arm with new users has no money.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from monitoring.decision_log import DecisionLog, find_overridden
from mtorl.experiment.arm import HOLDOUT
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.inference.verdict import breach
from mtorl.experiment.stage_machine import ArmEvidence, Evidence
from mtorl.log.decision_ids import TIME

_FOLLOWED_SECONDS = 5.0  # in which the ledger follows a change of the stage


def stage_evidence(log: DecisionLog, experiment: Experiment, since: float, verdict: Mapping[str, Any]) -> Evidence:
    """The evidence now.

    Args:
        since: When its time at this stage began, seconds since 1970.
        verdict: Of this log, by `verdict_from_log`.
    """
    arms = arms_at_stage(log, experiment, since)
    if experiment.stage != "shadow":
        counted = verdict["users_of_stages"].get(experiment.stage, {})
        arms = {name: arm._replace(users=counted.get(name, 0)) for name, arm in arms.items()}
    return evidence_of(verdict, arms, {arm.name for arm in experiment.arms if arm.weight > 0})


def evidence_of(verdict: Mapping[str, Any], arms: Mapping[str, ArmEvidence], serving: Collection[str]) -> Evidence:
    """A verdict in the stage machine's terms; an arm without a weight (not in `serving`) does no harm any more."""
    breached = tuple(
        f"{name}: {breach(check['name'], check['lower'], check['margin'])}"
        for name, found in verdict["challengers"].items()
        for check in found["guardrails"]
        if check["state"] == "breached" and name in serving
    )
    return Evidence(verdict["verdict"], verdict["reason"], verdict["challenger"], breached, arms)


def arms_at_stage(log: DecisionLog, experiment: Experiment, since: float) -> dict[str, ArmEvidence]:
    """All users, faults and latency of each arm at the stage in force since a time; arms without decisions lack."""
    values = {
        "name": experiment.name,
        "salt": experiment.salt,
        "stage": experiment.stage,
        "start": datetime.fromtimestamp(since, UTC),
        "followed": datetime.fromtimestamp(since + _FOLLOWED_SECONDS, UTC),
    }
    with log.opened("shadow") as db:
        find_overridden(db, experiment.name, experiment.salt)
        db.execute(
            f"""CREATE TABLE decision AS SELECT decision_id, user_id, arm, latency_seconds,
                fallback_reason IS NOT NULL AND NOT (fallback_reason = 'ledger' AND decided < $followed) AS fault
            FROM (SELECT *, event_time AS decided FROM decision_log) LEFT JOIN overridden USING (user_id)
            WHERE experiment = $name AND salt = $salt AND stage = $stage AND decided >= $start AND NOT withdrawn
                  AND (assignment_probability < 1 OR stage = 'shadow' AND arm <> '{HOLDOUT}')
                  AND coalesce({TIME} < since, true)""",
            values,
        )
        of_decisions = """SELECT arm, count(DISTINCT user_id), avg(fault::INT),
            quantile_cont(latency_seconds, 0.99) FROM decision GROUP BY arm"""
        rows = db.execute(of_decisions).fetchall()
        if experiment.stage == "shadow":
            rows += db.execute(
                """SELECT s.arm, count(DISTINCT user_id), avg((s.fault IS NOT NULL)::INT), NULL
                FROM shadow_log AS s JOIN decision USING (decision_id)
                WHERE s.experiment = $name GROUP BY s.arm""",
                {"name": experiment.name},
            ).fetchall()
    return {arm: ArmEvidence(users, ratio, math.nan if late is None else late) for arm, users, ratio, late in rows}
