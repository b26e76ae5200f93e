"""Summarises how the incumbent's users have behaved so far, to plan the size of an experiment with similar users."""

from datetime import timedelta

import numpy as np
import pandas as pd

from monitoring.decision_log import DecisionLog
from monitoring.verdict.hourly_sums import matures
from mtorl.experiment.arm import INCUMBENT, OUTSIDE
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.inference.heavy_users import user_weights
from mtorl.experiment.inference.plan import IncumbentUsers, Population
from mtorl.experiment.inference.sums import Floats
from mtorl.experiment.metrics import COST, DECISIONS, WEIGHT, Terms, column, gain_of, metric, outcomes_of, unit_of
from mtorl.log.dataset import EVENTS
from mtorl.log.decision_ids import TIME
from mtorl.log.gain import Gain
from mtorl.runtime.sql import sql_name, sql_text


def incumbent_users(log: DecisionLog, experiment: Experiment, gain: Gain) -> IncumbentUsers:
    """Add up the outcomes of the incumbent's decisions for each user, and summarise the users.

    Decisions at the stage `shadow` and decisions for users outside of the experiment are included.
    """
    primary, hours = experiment.metrics.primary, experiment.metrics.outcome_hours
    kinds = sorted({kind for name in (primary, COST) for kind in outcomes_of(name, gain)})
    with log.opened("outcome") as db:
        db.execute(
            f"""CREATE TABLE decision AS
            WITH overridden AS (
                SELECT user_id, min({TIME}) AS since FROM decision_log
                WHERE override AND experiment = $name GROUP BY user_id)
            SELECT decision_id, user_id, event_time AS decided FROM decision_log LEFT JOIN overridden USING (user_id)
            WHERE experiment = $name AND arm IN ('{INCUMBENT}', '{OUTSIDE}') AND NOT withdrawn
                  AND coalesce({TIME} < since, true)""",
            {"name": experiment.name},
        )
        added = "".join(
            f", coalesce(sum(value) FILTER (kind = {sql_text(kind)}), 0) AS {sql_name(column(kind))}" for kind in kinds
        )
        of_users = db.execute(
            f"""WITH planned AS (FROM decision WHERE decided <= (SELECT max(decided) FROM decision) - $ripens)
            SELECT count(decided) AS {DECISIONS}, min(decided) AS first, max(decided) AS last{added} FROM (
                SELECT user_id, decided FROM planned UNION ALL BY NAME
                SELECT user_id, kind, value FROM planned JOIN outcome_log USING (decision_id)
                WHERE greatest(event_time, received_time) <= {matures(experiment, "decided")})
            GROUP BY user_id ORDER BY user_id""",  # a plan samples users by row, so their order must be fixed
            {"ripens": timedelta(hours=hours or 0.0)},
        ).df()
    judged = metric(primary, gain)
    figures = np.stack([_sum(of_users, terms) for terms in (judged.numerator, judged.denominator)], -1)
    if len(figures):
        figures = figures * user_weights(of_users[DECISIONS].to_numpy(np.float64))[:, None]
    decisions, cost = int(of_users[DECISIONS].sum()), float(_sum(of_users, metric(COST, gain).numerator).sum())
    return IncumbentUsers(
        Population(figures, set(EVENTS).issuperset(gain_of(primary, gain).names)),
        decisions,
        cost / decisions if decisions else 0.0,
        (of_users["last"].max() - of_users["first"].min()).total_seconds() / 86_400 if len(of_users) else 0.0,
        unit_of(primary, gain),
    )


def _sum(of_users: pd.DataFrame, terms: Terms) -> Floats:
    """Return a weighted sum of columns for each user, in the shape (U,)."""
    columns = [(DECISIONS if name == WEIGHT else name, weight) for name, weight in terms]
    return sum((weight * of_users[name].to_numpy(np.float64) for name, weight in columns), np.zeros(len(of_users)))
