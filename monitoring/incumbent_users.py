"""What the incumbent's users did so far, and what an experiment with users like them would need.

    seen = incumbent_users(log, experiment, gain)
    plan_with(seen, experiment, effect=0.05)                   # users, days, money (mtorl.experiment.plan)

All of the incumbent's decisions count whose outcomes are known by now: in the shadow, in a stage, or of users outside.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from monitoring.decision_log import DecisionLog, database, one_record_each_of_few_copies, open_records
from mtorl.experiment.experiment import INCUMBENT, OUTSIDE, Experiment
from mtorl.experiment.metrics import COST, column, gain_of, outcomes_of, sums
from mtorl.experiment.plan import Population, needed_users
from mtorl.experiment.verdict import error_share
from mtorl.log.dataset import EVENTS
from mtorl.log.gain import Gain


class IncumbentUsers(NamedTuple):
    """The incumbent's users, and their decisions, in the time that the log covers."""

    population: Population
    decisions: int
    cost_per_decision: float
    days: float


def incumbent_users(log: DecisionLog, experiment: Experiment, gain: Gain) -> IncumbentUsers:
    """Add up what came of the incumbent's decisions, by user.

    Args:
        log: Decisions and outcomes.
        experiment: By its name; its primary metric counts.
        gain: What "gain_per_decision" means.
    """
    primary = experiment.metrics.primary
    names = tuple(dict.fromkeys((primary, COST)))
    kinds = dict.fromkeys(kind for name in names for kind in outcomes_of(name, gain))
    known = f"{experiment.metrics.outcome_hours or 0.0!r} * INTERVAL 1 HOUR"
    with database() as db:
        open_records(db, "decision", log.decisions).create_view("decision_log")
        open_records(db, "outcome", log.outcomes).create_view("outcome_log")
        db.execute(
            f"""CREATE TABLE decision AS
            SELECT decision_id, user_id, expose, fallback_reason, latency_seconds, 1.0 AS weight,
                   CAST(event_time AS TIMESTAMPTZ) AS decided
            FROM ({one_record_each_of_few_copies(db, "decision", "decision_log")})
            WHERE experiment = $name AND arm IN ('{INCUMBENT}', '{OUTSIDE}') AND NOT withdrawn""",
            {"name": experiment.name},
        )
        pivot = ", ".join(f"sum(value) FILTER (kind = '{kind}') AS {column(kind)}" for kind in kinds)
        in_time = (
            "true"
            if experiment.metrics.outcome_hours is None
            else (f"greatest(CAST(event_time AS TIMESTAMPTZ), CAST(received_time AS TIMESTAMPTZ)) <= decided + {known}")
        )
        db.execute(
            f"""CREATE TABLE outcome AS SELECT decision_id, {pivot}
            FROM ({one_record_each_of_few_copies(db, "outcome", "outcome_log")})
                 JOIN (SELECT decision_id, decided FROM decision) USING (decision_id)
            WHERE {in_time} GROUP BY decision_id"""
        )
        values = ", ".join(f"coalesce({column(kind)}, 0) AS {column(kind)}" for kind in kinds)
        of_users = db.execute(
            f"""SELECT {sums(names, gain)}, count(*) AS decisions, min(decided) AS first, max(decided) AS last
            FROM (SELECT decision.*, {values} FROM decision LEFT JOIN outcome USING (decision_id)
                  WHERE decided <= (SELECT max(decided) FROM decision) - {known})
            GROUP BY user_id ORDER BY user_id"""  # a plan draws users by their place: the same log, the same plan
        ).df()
    figures = of_users[[f"{primary}_numerator", f"{primary}_denominator"]].to_numpy(np.float64)
    decisions, cost = int(of_users["decisions"].sum()), float(of_users[f"{COST}_numerator"].sum())
    span = of_users["last"].max() - of_users["first"].min() if len(of_users) else None
    return IncumbentUsers(
        Population(figures, counts=set(EVENTS).issuperset(gain_of(primary, gain).names)),
        decisions,
        cost / decisions if decisions else 0.0,
        span.total_seconds() / 86_400 if span is not None else 0.0,
    )


def plan_with(
    seen: IncumbentUsers, experiment: Experiment, effect: float, share: float = 0.5, users_a_day: float = 0.0
) -> dict[str, Any] | None:
    """What it takes to find an effect; None: more users than anybody waits for.

    Args:
        seen: The incumbent's users.
        experiment: Which comparisons share its alpha, and how long it runs at least.
        effect: By how much the challenger's metric is larger, as a share of the incumbent's.
        share: Of the users who get the challenger.
        users_a_day: Users who come on a day; 0: as many new ones as were seen.

    Returns:
        A JSON-ready dict: users of all arms, days (None: not known), decisions, cost (currency units), power and runs
        of the played experiments, alpha of the comparison, and what was seen.

    Raises:
        ValueError: the log says too little, or an argument makes no sense.
    """
    challengers = sum(arm.name != INCUMBENT for arm in experiment.arms)
    alpha = error_share(experiment.alpha, challengers, len(experiment.metrics.guardrails))
    found = needed_users(seen.population, effect, share, alpha)
    if found is None:
        return None
    users = len(seen.population.figures_U2)
    a_day = users_a_day or (users / seen.days if seen.days else 0.0)
    decisions = found.users * seen.decisions / users
    return {
        "effect": effect,
        "share": share,
        "users": found.users,
        "days": max(found.users / a_day, experiment.min_runtime_hours / 24) if a_day else None,
        "decisions": decisions,
        "cost": decisions * seen.cost_per_decision,
        "power": found.power,
        "runs": found.runs,
        "alpha": alpha,
        "seen": {"users": users, "decisions": seen.decisions, "days": seen.days, "gain": seen.population.ratio},
    }
