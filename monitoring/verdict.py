"""The verdict of a running experiment, read from the decision log.

    verdict_from_log(DecisionLog.in_folder("decision_log"), Experiment.load("experiment.yaml"), "click")

Decisions count for the arm that the user was *assigned* to, fallbacks included: dropping them would compare the users
of whichever arm fails less. Left out, and counted, are decisions of other experiments and stages, and those that nobody
randomised (kill switch, shadow). Users seen in two arms are a fault of the assignment; they count for neither.

In a replay of a real log most outcomes are unknown, so each decision has a weight: 1 / p of the logged channel when the
policy exposed just that one, 1 when it did not expose, 0 when its outcome cannot be known. Gain per decision is then
sum(weight * gain) / sum(weight).
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from monitoring.decision_log import DecisionLog, open_records
from monitoring.experiment_metrics import GAINS, OUTCOMES, metric_of
from monitoring.experiment_metrics import sums as metric_sums
from mtorl.experiment.experiment import INCUMBENT, Experiment
from mtorl.experiment.statistics import (
    MIN_USERS,
    Lift,
    Ratio,
    check_guardrail,
    compare,
    ratio,
    reach_verdict,
    srm_p_value,
)
from mtorl.log.records import one_record_each

LOOKS = 30  # of the series that shows the interval as users arrived
TIGHTEST_AT = 2_000  # users; fixed beforehand, the width hardly depends on it (1.55 to 1.95 times one look's)


def verdict_from_log(
    log: DecisionLog,
    experiment: Experiment,
    gain: str = "click",
    *,
    budget_per_decision: float | None = None,
    challenger: str | None = None,
    tightest_at: int = TIGHTEST_AT,
) -> dict[str, Any]:
    """Compare the arms of an experiment.

    Args:
        log: Decisions and outcomes.
        experiment: The experiment whose current stage is judged.
        gain: Outcome whose sum is the gain: "click", "conversion" or "revenue".
        budget_per_decision: Currency units that either arm may spend on a decision, for a replay, where the ledger
            sees only the matched part of the cost: an arm that would spend more is thinned until it fits, as in
            `mtorl.evaluation.gate`. None for live traffic, where the ledger has held the budget.
        challenger: Arm to compare with the incumbent; needed only when there are several.
        tightest_at: Users at which the always-valid interval is tightest; fixed before the experiment starts.

    Returns:
        A JSON-ready dict: arms, lift, lift_ci (always valid), lift_ci_fixed, relative_lift, srm_p, guardrails,
        secondary, verdict, reason, series of looks as users arrived, what was left out.

    Raises:
        ValueError: an unknown metric, outcome or arm.
    """
    if gain not in GAINS:
        raise ValueError(f"gain {gain!r} is not one of {', '.join(GAINS)}")
    challenger = _challenger(experiment, challenger)
    alpha = experiment.alpha
    users, left_out = _users(log, experiment)
    crossed = users["user_id"].duplicated(keep=False)
    crossed_users = int(users.loc[crossed, "user_id"].nunique())
    users = users[~crossed].sort_values(["first_at", "user_id"], ignore_index=True)

    def lift_of(metric: str, table: pd.DataFrame = users) -> Lift:
        sides = (
            _metric(table[table["arm"] == arm], metric, gain, budget_per_decision) for arm in (challenger, INCUMBENT)
        )
        return compare(*sides, alpha=alpha, tightest_at=tightest_at)

    primary = lift_of("gain_per_decision")
    # A kill switch that is pulled now does not change how the users in the log were split.
    shares = experiment.replace(enabled=True).shares()
    srm_p = srm_p_value({arm: int((users["arm"] == arm).sum()) for arm in users["arm"].unique()}, shares)
    guardrails = experiment.metrics.guardrails
    checks = [
        check_guardrail(
            guardrail.name,
            lift_of(guardrail.name),
            direction=guardrail.direction,
            margin=guardrail.margin,
            alpha=alpha / len(guardrails),
            tightest_at=tightest_at,
        )
        for guardrail in guardrails
    ]
    hours = (users["last_at"].max() - users["first_at"].min()).total_seconds() / 3600 if len(users) else 0.0
    verdict = reach_verdict(
        primary,
        srm_p=srm_p,
        guardrails=checks,
        crossed_share=crossed_users / max(crossed_users + len(users), 1),
        hours=hours,
        min_hours=experiment.min_runtime_hours,
    )
    result = {
        "experiment": experiment.name,
        "stage": experiment.stage,
        "gain": gain,
        "alpha": alpha,
        "weighted": log.weights is not None,
        "budget_per_decision": budget_per_decision,
        "hours": hours,
        "arms": {arm.name: _arm(users[users["arm"] == arm.name], gain, budget_per_decision) for arm in experiment.arms},
        "lift": primary.value,
        "lift_ci": primary.ci,
        "lift_ci_fixed": primary.ci_fixed,
        "relative_lift": primary.relative,
        "srm_p": srm_p,
        "guardrails": [asdict(check) for check in checks],
        "secondary": {name: _secondary(lift_of(name)) for name in experiment.metrics.secondary},
        "multiple_exposure_users": crossed_users,
        "left_out": left_out,
        "verdict": verdict.token,
        "reason": verdict.reason,
        "series": [
            {"users": look.users, "lift": look.value, "lo": look.ci[0], "hi": look.ci[1]}
            for look in (lift_of("gain_per_decision", table=users.head(n)) for n in _looks(len(users)))
        ],
    }
    return {key: _plain(value) for key, value in result.items()}


def _users(log: DecisionLog, experiment: Experiment) -> tuple[pd.DataFrame, dict[str, int]]:
    """One row a user and arm with the sums of its decisions, and how many decisions were left out, by reason.

    Both logs are delivered at least once, so of several records with one id the one that counts is taken.
    """
    import duckdb

    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        open_records(db, log.decisions).create_view("decision_log")
        open_records(db, log.outcomes).create_view("outcome_log")
        if isinstance(log.weights, pd.DataFrame):
            db.register("weight_of", log.weights)
        elif log.weights is not None:
            db.from_parquet(str(log.weights)).create_view("weight_of")
        weight = "coalesce(weight_of.weight, 0.0)" if log.weights is not None else "1.0"
        join = "LEFT JOIN weight_of USING (decision_id)" if log.weights is not None else ""
        decision = f"""decision AS (
            SELECT record.* EXCLUDE (event_time), {weight} AS weight, CAST(event_time AS TIMESTAMPTZ) AS decided,
                   CASE WHEN experiment <> $name THEN 'other_experiment'
                        WHEN stage <> $stage THEN 'other_stage'
                        WHEN assignment_probability >= 1 THEN 'not_randomised' END AS left_out
            FROM ({one_record_each("decision", "decision_log")}) AS record {join}
            WHERE {log.period.condition()})"""
        parameters = {"name": experiment.name, "stage": experiment.stage, **log.period.parameters()}
        left_out = db.execute(
            f"""WITH {decision}
            SELECT left_out, count(*) FROM decision WHERE left_out IS NOT NULL GROUP BY ALL ORDER BY 1""",
            parameters,
        ).fetchall()
        pivot = ", ".join(f"sum(value) FILTER (kind = '{kind}') AS {kind}" for kind in OUTCOMES)
        known = ", ".join(f"coalesce({kind}, 0) AS {kind}" for kind in OUTCOMES)
        totals = ", ".join(f"sum({kind}) AS {kind}" for kind in OUTCOMES)
        users = db.execute(
            f"""WITH {decision}, outcome AS (
                SELECT decision_id, {pivot}
                FROM ({one_record_each("outcome", "outcome_log")}) GROUP BY decision_id),
            decision_with_outcomes AS (
                SELECT decision.*, {known} FROM decision LEFT JOIN outcome USING (decision_id) WHERE left_out IS NULL)
            SELECT user_id, arm, count(*)::DOUBLE AS decisions, count_if(weight > 0)::DOUBLE AS evaluable,
                   count_if(expose)::DOUBLE AS exposures, count_if(fallback_reason IS NOT NULL)::DOUBLE AS fallbacks,
                   {totals}, sum(weight) AS weight, sum(weight * weight) AS squared_weight, {metric_sums()},
                   min(decided) AS first_at, max(decided) AS last_at
            FROM decision_with_outcomes GROUP BY user_id, arm""",
            parameters,
        ).df()
    return users, {str(reason): int(count) for reason, count in left_out}


def _arm(users: pd.DataFrame, gain: str, budget: float | None) -> dict[str, Any]:
    """Totals are facts of the log; what is per decision is weighted in a replay."""
    return {
        "users": len(users),
        "decisions": int(users["decisions"].sum()),
        "evaluable": int(users["evaluable"].sum()),
        "exposures": int(users["exposures"].sum()),
        "fallbacks": int(users["fallbacks"].sum()),
        "gain": float(users[gain].sum()),
        "cost": float(users["cost"].sum()),
        "effective_decisions": float(users["weight"].sum() ** 2 / max(users["squared_weight"].sum(), 1e-300)),
        "gain_per_decision": _metric(users, "gain_per_decision", gain, budget).value,
        "cost_per_decision": _metric(users, "cost_per_decision", gain, None).value,
    }


def _metric(users: pd.DataFrame, metric: str, gain: str, budget: float | None) -> Ratio:
    """A metric of one arm. Gain over a budget is gain per currency unit times the budget: min(1, b / W) * G."""
    name = metric_of(metric, gain)
    numerator, denominator = (users[f"{name}_{part}"].to_numpy(np.float64) for part in ("numerator", "denominator"))
    if metric == "gain_per_decision" and budget is not None:
        cost, decisions = (users[f"cost_per_decision_{part}"] for part in ("numerator", "denominator"))
        if cost.sum() > budget * decisions.sum():
            return ratio(budget * numerator, cost.to_numpy(np.float64))
    return ratio(numerator, denominator)


def _challenger(experiment: Experiment, name: str | None) -> str:
    others = [arm.name for arm in experiment.arms if arm.name != INCUMBENT]
    if name is None and len(others) > 1:
        raise ValueError(f"experiment {experiment.name!r} has several challengers, name one of {', '.join(others)}")
    if name is not None and name not in others:
        raise ValueError(f"experiment {experiment.name!r} has no challenger {name!r}, only {', '.join(others)}")
    return name or others[0]


def _looks(users: int) -> list[int]:
    """Numbers of users at which the series is looked at; none before the intervals can be read."""
    if users < MIN_USERS:
        return []
    return [int(n) for n in np.unique(np.linspace(MIN_USERS, users, LOOKS).round())]


def _secondary(lift: Lift) -> dict[str, Any]:
    return {"lift": lift.value, "lift_ci": lift.ci, "relative_lift": lift.relative}


def _plain(value: Any) -> Any:
    """Plain JSON types; what is not a number is null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
