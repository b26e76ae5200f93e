"""Reads from the decision log which channels each arm has chosen, and how much money it has spent.

If the experiment file sets a user's arm, the user's decisions are not counted.
"""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product

import duckdb

from monitoring import messages
from monitoring.decision_log import DecisionLog, Period
from monitoring.experiments.document import ArmTraffic, ChannelMix, Newest, Spend, Traffic
from mtorl.experiment.experiment import Experiment
from mtorl.pages.words import duration
from mtorl.policy.periods import period_at

# A time without decisions is unusual above this multiple of the longest earlier gap.
_FACTOR = 2.0
# A shorter time without decisions, in seconds, is never unusual, because an upload may be delayed.
_LEAST = 900.0
# A week includes a shop's weekly closing day.
_COMPARED_DAYS = 7


def traffic_of(db: duckdb.DuckDBPyConnection, log: DecisionLog, experiment: Experiment) -> Traffic | None:
    """Count the decisions, exposures and fallbacks of each arm by channel; None if there are no decisions.

    Only users who were randomly assigned to an arm are counted. If there are none, the stage `shadow` is counted.

    Args:
        db: Database with the experiment's sums, from `experiment_users`.
    """
    ((served, there),) = db.execute("SELECT count_if(randomised), count(*) FROM activity WHERE counts").fetchall()
    if not there:
        return None
    chosen = "FROM activity WHERE counts" + (" AND randomised" if served else "")
    rows = db.execute(
        f"""SELECT arm, channel, sum(decisions)::BIGINT, sum(exposures)::BIGINT, sum(fallbacks)::BIGINT {chosen}
        GROUP BY arm, channel ORDER BY arm, 3 DESC, channel"""
    ).fetchall()
    if not served:
        ((first,),) = db.execute(f"SELECT min(first) {chosen}").fetchall()
        rows += _shadows(replace(log, period=Period(first, log.period.until)), experiment)
    arms: dict[str, ArmTraffic] = {}
    for arm, channel, decisions, exposures, fallbacks in rows:
        of_arm = arms.setdefault(arm, ArmTraffic(decisions=0, exposures=0, fallbacks=0, channels={}))
        of_arm["decisions"] += decisions
        of_arm["exposures"] += exposures
        of_arm["fallbacks"] += fallbacks
        if channel is not None:
            of_arm["channels"][channel] = ChannelMix(decisions=decisions, exposures=exposures)
    return Traffic(shadow=not served, arms=arms)


def _shadows(log: DecisionLog, experiment: Experiment) -> list[tuple[str, str | None, int, int, int]]:
    with log.opened("shadow", near=True) as db:
        return db.execute(
            """SELECT shadow.arm, shadow.channel, count(*), count_if(coalesce(shadow.expose, false)),
                      count_if(fault IS NOT NULL)
            FROM shadow_log AS shadow JOIN decision_log AS decision USING (decision_id)
            WHERE shadow.experiment = $name AND decision.experiment = $name AND decision.salt = $salt
                  AND decision.stage = 'shadow' AND NOT (decision.withdrawn OR decision.override)
            GROUP BY ALL ORDER BY 1, 3 DESC, 2""",
            {"name": experiment.name, "salt": experiment.salt},
        ).fetchall()


def newest_of(db: duckdb.DuckDBPyConnection, now: float) -> Newest | None:
    """Find an experiment's newest decision, and check whether no decision followed for unusually long.

    The pause is unusual compared with the longest gap of the week before.
    """
    ((newest, longest),) = db.execute(
        f"""WITH busy AS (
            SELECT minute AS start, max(last) AS newest FROM activity WHERE last <= $now GROUP BY start),
        gap AS (
            SELECT start, newest, start - lag(start) OVER (ORDER BY start) AS length FROM busy)
        SELECT max(newest), epoch(max(length) FILTER (
            start > (SELECT max(newest) FROM busy) - to_days({_COMPARED_DAYS})))
        FROM gap""",
        {"now": datetime.fromtimestamp(now, UTC)},
    ).fetchall()
    if newest is None:
        return None
    at, longest, silence = newest.astimezone(UTC), float(longest or 0.0), None
    age = max(0.0, now - at.timestamp())
    if age > max(_LEAST, _FACTOR * longest):
        usual = duration(longest) if longest else "unknown"
        silence = messages.SILENT(silence=duration(age), since=f"{at:%Y-%m-%d %H:%M}", usual=usual)
    return Newest(at=at.isoformat(timespec="seconds"), age_seconds=age, silence=silence)


def spend_of(db: duckdb.DuckDBPyConnection, experiment: Experiment, now: float) -> list[Spend]:
    """Compute the spend of each budget account in its current period, from the costs in the log.

    `reserved` is 0, because only the ledger knows the reserved money.
    """
    starts = {
        (period, timezone): period_at(period, timezone, now)[0]
        for period, timezone in {(account.period, account.timezone) for account in experiment.accounts()}
    }
    spent_since = {start: _spent_since(db, start) for start in set(starts.values())}
    return [
        Spend(
            arm=account.arm,
            campaign=account.campaign,
            channel=account.channel,
            period=account.period,
            limit=account.limit,
            spent=spent_since[starts[account.period, account.timezone]][account.arm, account.campaign, account.channel],
            reserved=0.0,
        )
        for account in experiment.accounts()
    ]


def _spent_since(db: duckdb.DuckDBPyConnection, start: float) -> Counter[tuple[str, str, str]]:
    """One query serves all accounts, because an experiment may have 100,000 accounts."""
    rows = db.execute(
        "SELECT arm, campaign_id, channel, fsum(cost) FROM spent WHERE since >= $start GROUP BY ALL ORDER BY ALL",
        {"start": datetime.fromtimestamp(start, UTC)},
    ).fetchall()
    found: Counter[tuple[str, str, str]] = Counter()
    for *of, cost in rows:
        for scope in product(*((name, "*") for name in of)):
            found[scope] += cost
    return found
