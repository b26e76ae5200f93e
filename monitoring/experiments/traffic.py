"""Channels and money of an experiment's arms, from the decision log: all decisions, whether they count or not.

Users whose arm the file names belong to no arm: they have an account of their own.

traffic_of(log, experiment)                 # channels that each arm decided on
spend_of(log, experiment, now)              # cost against each account, where no ledger can be asked
"""

from __future__ import annotations

from datetime import UTC, datetime

import duckdb

from monitoring.decision_log import DecisionLog
from monitoring.experiments.document import ArmTraffic, ChannelMix, Spend, Traffic
from monitoring.verdict.hourly_sums import sql_text
from mtorl.experiment.arm import OVERRIDE
from mtorl.experiment.experiment import Experiment
from mtorl.policy.periods import period_at


def traffic_of(log: DecisionLog, experiment: Experiment) -> Traffic | None:
    """Count the decisions of each arm by channel; None: there are none.

    Counted are randomised users or, before there are any, the shadow: decisions of the incumbent, and what challengers
    would have decided.
    """
    named = {"name": experiment.name, "salt": experiment.salt}
    with log.opened("shadow") as db:
        db.execute(
            """CREATE TABLE decision AS
            SELECT decision_id, arm, stage, channel, expose, fallback_reason, assignment_probability < 1 AS randomised,
                   event_time AS decided
            FROM decision_log
            WHERE experiment = $name AND salt = $salt AND NOT withdrawn AND NOT override
                  AND (assignment_probability < 1 OR stage = 'shadow')""",
            named,
        )
        ((any_served, any_there),) = db.execute("SELECT count_if(randomised), count(*) FROM decision").fetchall()
        if not any_there:
            return None
        chosen = f"FROM decision WHERE randomised = {'true' if any_served else 'false'}"
        rows = db.execute(_counts(chosen, "fallback_reason")).fetchall()
        ((first, last),) = db.execute(f"SELECT min(decided), max(decided) {chosen}").fetchall()
        if not any_served:
            shadows = f"""FROM (SELECT shadow.* FROM shadow_log AS shadow
                          JOIN decision USING (decision_id) WHERE shadow.experiment = {sql_text(experiment.name)})"""
            rows += db.execute(_counts(shadows, "fault")).fetchall()
    arms: dict[str, ArmTraffic] = {}
    for arm, channel, decisions, exposures, fallbacks in rows:
        of_arm = arms.setdefault(arm, ArmTraffic(decisions=0, exposures=0, fallbacks=0, channels={}))
        of_arm["decisions"] += decisions
        of_arm["exposures"] += exposures
        of_arm["fallbacks"] += fallbacks
        if channel is not None:
            of_arm["channels"][channel] = ChannelMix(decisions=decisions, exposures=exposures)
    return Traffic(first=first.isoformat(), last=last.isoformat(), shadow=not any_served, arms=arms)


def _counts(source: str, fault: str) -> str:
    return f"""SELECT arm, channel, count(*), count_if(coalesce(expose, false)), count_if({fault} IS NOT NULL)
        {source} GROUP BY arm, channel ORDER BY arm, count(*) DESC, channel"""


def spend_of(log: DecisionLog, experiment: Experiment, now: float) -> list[Spend]:
    """Cost in the log of each account's present period; reservations are not in it."""
    with log.opened("outcome") as db:
        db.execute(
            f"""CREATE TABLE cost AS
            SELECT if(override, '{OVERRIDE}', arm) AS arm, campaign_id, channel, value,
                   decision.event_time AS decided
            FROM outcome_log JOIN decision_log AS decision USING (decision_id)
            WHERE kind = 'cost' AND experiment = $name AND salt = $salt AND NOT decision.withdrawn""",
            {"name": experiment.name, "salt": experiment.salt},
        )
        return [
            Spend(
                arm=account.arm,
                campaign=account.campaign,
                channel=account.channel,
                period=account.period,
                limit=account.limit,
                spent=_spent(db, account.arm, account.campaign, account.channel, start),
                reserved=0.0,
            )
            for account in experiment.accounts()
            for start in [period_at(account.period, account.timezone, now)[0]]
        ]


def _spent(db: duckdb.DuckDBPyConnection, arm: str, campaign: str, channel: str, start: float) -> float:
    ((spent,),) = db.execute(
        """SELECT coalesce(fsum(value), 0) FROM cost
        WHERE $arm IN (arm, '*') AND $campaign IN (campaign_id, '*') AND $channel IN (channel, '*')
              AND decided >= $start""",
        {"arm": arm, "campaign": campaign, "channel": channel, "start": datetime.fromtimestamp(start, UTC)},
    ).fetchall()
    return float(spent)
