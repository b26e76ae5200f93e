"""Reads channels and money of an experiment's arms from the decision log: all decisions, whether they count or not.

Overridden users belong to no arm, since they have a separate account.

traffic_of(read.db, log, experiment)        # channels chosen by each arm
newest_of(read.db, now)                     # the newest decision, with a message after an unusual gap
spend_of(read.db, experiment, now)          # cost charged to each account, if no ledger answers
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

_FACTOR = 2.0  # a gap is unusual beyond this multiple of the longest earlier gap
_LEAST = 900.0  # least unusual gap, seconds: routers upload each minute, and may have to wait for the lake
_COMPARED_DAYS = 7  # a week, because it includes a shop's weekly closing day


def traffic_of(db: duckdb.DuckDBPyConnection, log: DecisionLog, experiment: Experiment) -> Traffic | None:
    """Count the decisions of each arm by channel; None if there are none.

    The counts cover randomised users. Before there are any, they cover the shadow: decisions of the incumbent, and
    hypothetical ones of challengers. `db` has the experiment's sums (`monitoring/verdict/experiment_users.py`).
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
    """Find the newest decision of an experiment, of any stage and arm, and whether the gap since then is unusual.

    Request rates differ by a factor of a thousand between shops, and between noon and night. So the decision's age is
    compared with the longest gap of the week before it. Decisions from a clock that is ahead are ignored.
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
    """Cost in the log for each account's present period, without reservations. For `db`, see `traffic_of`."""
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
    """Cost by arm, campaign and channel; "*" is any. One query serves all accounts, which may be 100,000."""
    rows = db.execute(
        "SELECT arm, campaign_id, channel, fsum(cost) FROM spent WHERE since >= $start GROUP BY ALL ORDER BY ALL",
        {"start": datetime.fromtimestamp(start, UTC)},
    ).fetchall()
    found: Counter[tuple[str, str, str]] = Counter()
    for *of, cost in rows:
        for scope in product(*((name, "*") for name in of)):
            found[scope] += cost
    return found
