"""The verdict of a running experiment, read from the decision log.

    verdict_from_log(log / "decisions.parquet", log / "outcomes.parquet", Experiment.load("experiment.yaml"), "click")

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
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mtorl.experiment.experiment import INCUMBENT, Experiment
from mtorl.experiment.statistics import (
    MIN_USERS,
    Lift,
    Ratio,
    check_guardrail,
    compare,
    decide,
    ratio,
    srm_p_value,
)
from mtorl.log.records import one_record_each

OUTCOMES = ("click", "conversion", "revenue", "cost")
LOOKS = 30
TIGHTEST_AT = 2_000  # users; fixed beforehand, the width hardly depends on it (1.55 to 1.95 times one look's)

# Metric of the experiment file -> numerator and denominator, both sums over one user's decisions.
METRICS = {f"{kind}_per_decision": (f"weighted_{kind}", "weight") for kind in OUTCOMES} | {
    "exposure_ratio": ("exposures", "decisions"),
    "fallback_ratio": ("fallbacks", "decisions"),
    "latency_seconds": ("latency", "decisions"),
}


def verdict_of_window(
    decision_log: str, experiment: str, gain: str, weights: str, budget: float, since: str, until: str
) -> dict[str, Any]:
    """`verdict_from_log` with plain values, as a pipeline step passes them; empty text and 0 = not given."""
    return verdict_from_log(
        Path(decision_log) / "decisions.parquet",
        Path(decision_log) / "outcomes.parquet",
        Experiment.load(experiment),
        gain,
        Path(weights) if weights else None,
        budget_per_decision=budget or None,
        since=since,
        until=until,
    )


def verdict_from_log(
    decisions: Path,
    outcomes: Path,
    experiment: Experiment,
    gain: str = "click",
    weights: Path | pd.DataFrame | None = None,
    *,
    budget_per_decision: float | None = None,
    challenger: str | None = None,
    since: str = "",
    until: str = "",
    tightest_at: int = TIGHTEST_AT,
) -> dict[str, Any]:
    """Compare the arms of an experiment.

    Args:
        decisions: decision log (Parquet).
        outcomes: outcome log (Parquet).
        experiment: the experiment whose current stage is judged.
        gain: outcome whose sum is the gain: "click", "conversion" or "revenue".
        weights: decision_id and weight of a replay; decisions without one have weight 0. None for live traffic.
        budget_per_decision: currency units that either arm may spend on a decision, for a replay, where the ledger
            sees only the matched part of the cost: an arm that would spend more is thinned until it fits, as in
            `mtorl.evaluation.gate`. None for live traffic, where the ledger has held the budget.
        challenger: arm to compare with the incumbent; needed only when there are several.
        since: earliest decision, ISO time; empty for no bound.
        until: first decision that no longer counts, ISO time; empty for no bound.
        tightest_at: users at which the always-valid interval is tightest; fixed before the experiment starts.

    Returns:
        A JSON-ready dict: arms, lift, lift_ci (always valid), lift_ci_fixed, relative_lift, srm_p, guardrails,
        secondary, verdict, reason, series of looks as users arrived, what was left out.

    Raises:
        ValueError: an unknown metric, outcome or arm.
    """
    if gain not in OUTCOMES[:3]:
        raise ValueError(f"gain {gain!r} is not one of {', '.join(OUTCOMES[:3])}")
    challenger = _challenger(experiment, challenger)
    alpha = experiment.alpha
    users, left_out = _users(decisions, outcomes, experiment, weights, since, until)
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
    guards = experiment.metrics.guardrails
    checks = [
        check_guardrail(
            guard.name,
            lift_of(guard.name),
            direction=guard.direction,
            margin=guard.margin,
            alpha=alpha / len(guards),
            tightest_at=tightest_at,
        )
        for guard in guards
    ]
    hours = (users["last_at"].max() - users["first_at"].min()).total_seconds() / 3600 if len(users) else 0.0
    verdict = decide(
        primary,
        srm_p=srm_p,
        guardrails=checks,
        crossed_share=crossed_users / max(crossed_users + len(users), 1),
        hours=hours,
        min_hours=experiment.min_runtime_hours,
    )
    found = {
        "experiment": experiment.name,
        "stage": experiment.stage,
        "gain": gain,
        "alpha": alpha,
        "weighted": weights is not None,
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
    return {key: _plain(value) for key, value in found.items()}


def _users(
    decisions: Path,
    outcomes: Path,
    experiment: Experiment,
    weights: Path | pd.DataFrame | None,
    since: str,
    until: str,
) -> tuple[pd.DataFrame, dict[str, int]]:
    """One row a user and arm with the sums of its decisions, and how many decisions were left out, by reason.

    Both logs are delivered at least once, and a decision may be withdrawn, so one record of each id is chosen here.
    """
    import duckdb

    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        db.from_parquet(str(decisions)).create_view("decision_log")
        db.from_parquet(str(outcomes)).create_view("outcome_log")
        if isinstance(weights, pd.DataFrame):
            db.register("given_weight", weights)
        elif weights is not None:
            db.from_parquet(str(weights)).create_view("given_weight")
        weight = "coalesce(given_weight.weight, 0.0)" if weights is not None else "1.0"
        join = "LEFT JOIN given_weight USING (decision_id)" if weights is not None else ""
        db.execute(
            f"""CREATE TEMP TABLE decision AS
            SELECT decision_id, user_id, arm, expose, fallback_reason, latency_seconds, {weight} AS weight,
                   CAST(event_time AS TIMESTAMPTZ) AS decided,
                   CASE WHEN experiment <> $name THEN 'other_experiment'
                        WHEN stage <> $stage THEN 'other_stage'
                        WHEN assignment_probability >= 1 THEN 'not_randomised' END AS left_out
            FROM ({one_record_each("decision", "decision_log")}) {join}
            WHERE ($since IS NULL OR CAST(event_time AS TIMESTAMPTZ) >= CAST($since AS TIMESTAMPTZ))
              AND ($until IS NULL OR CAST(event_time AS TIMESTAMPTZ) < CAST($until AS TIMESTAMPTZ))""",
            {"name": experiment.name, "stage": experiment.stage, "since": since or None, "until": until or None},
        )
        left_out = db.execute(
            "SELECT left_out, count(*) FROM decision WHERE left_out IS NOT NULL GROUP BY ALL ORDER BY 1"
        ).fetchall()
        sums = ", ".join(
            f"sum(coalesce({k}, 0)) AS {k}, sum(weight * coalesce({k}, 0)) AS weighted_{k}" for k in OUTCOMES
        )
        pivot = ", ".join(f"sum(value) FILTER (kind = '{k}') AS {k}" for k in OUTCOMES)
        users = db.execute(
            f"""WITH outcome AS (
                SELECT decision_id, {pivot}
                FROM ({one_record_each("outcome", "outcome_log")}) GROUP BY decision_id)
            SELECT user_id, arm, count(*)::DOUBLE AS decisions, count_if(weight > 0)::DOUBLE AS evaluable,
                   count_if(expose)::DOUBLE AS exposures, count_if(fallback_reason IS NOT NULL)::DOUBLE AS fallbacks,
                   sum(latency_seconds) AS latency, sum(weight) AS weight, {sums},
                   sum(weight * weight) AS squared_weight,
                   min(decided) AS first_at, max(decided) AS last_at
            FROM decision LEFT JOIN outcome USING (decision_id)
            WHERE left_out IS NULL GROUP BY user_id, arm"""
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
        "cost_per_decision": _ratio(users, "weighted_cost", "weight").value,
    }


def _metric(users: pd.DataFrame, metric: str, gain: str, budget: float | None) -> Ratio:
    """A metric of one arm. Gain over a budget is gain per currency unit times the budget: min(1, b / W) * G."""
    numerator, denominator = _columns(metric, gain)
    if metric != "gain_per_decision" or budget is None:
        return _ratio(users, numerator, denominator)
    if users["weighted_cost"].sum() > budget * users["weight"].sum():
        return _ratio(users.assign(bought=budget * users[numerator]), "bought", "weighted_cost")
    return _ratio(users, numerator, denominator)


def _ratio(users: pd.DataFrame, numerator: str, denominator: str) -> Ratio:
    return ratio(users[numerator].to_numpy(np.float64), users[denominator].to_numpy(np.float64))


def _columns(metric: str, gain: str) -> tuple[str, str]:
    name = f"{gain}_per_decision" if metric == "gain_per_decision" else metric
    if name not in METRICS:
        raise ValueError(f"metric {metric!r} is not known; known: gain_per_decision, {', '.join(METRICS)}")
    return METRICS[name]


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
