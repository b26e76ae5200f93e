"""Chooses which exposures to keep if a training can't read all; narrow generations are dropped first.

A generation is the first log, or the exposures of one model in one arm. Its *width* is Kish's effective sample size, as
a share of its rows, for evaluating a policy that draws all channels with equal probability. The width is 1 for random
exposures, and close to 0 if the policy nearly always shows one channel.

Training on narrow exposures alone breaks the heads, so the rules are:

- The newest generation of each arm stays. Its exposures come from the serving model, and show the users as this model
  affects them.
- Of the other generations, the narrowest are dropped first; of two with equal width, the older one.
- If a generation fits only in part, a hash chooses whole users.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from features.collect.database import Database, table
from features.collect.rules import SAMPLED, of_users
from features.collect.stored_rows import Decided
from mtorl.runtime.sql import sql_text

LOG = ""
"""Arm of the first log, which no arm has collected."""


class Touchpoints(NamedTuple):
    """The exposures of a generation."""

    arm: str
    generation: str
    rows: int
    width: float
    newest: datetime


@dataclass(frozen=True)
class Bound:
    """Conditions that limit the rows that a training reads from a log and from decisions."""

    rows: int = 0  # number of touchpoints without the limit; 0 if there is no limit
    of_log: str = "true"  # SQL condition of the log's rows
    of_judged: str = "true"  # SQL condition of the touchpoints in the view `judged`
    share_of: Callable[[datetime], float] = lambda _: 1.0  # share of users to read from a block, by its hour


def bound(db: Database, decided: Decided, log: Sequence[Path], channels: int, most_rows: int) -> Bound:
    """Choose which touchpoints of a log and of the judged decisions to read: about `most_rows` in total (0: all)."""
    if not most_rows:
        return Bound()
    generations = _generations(db, decided.share, log, channels)
    rows = sum(one.rows for one in generations)
    if rows <= most_rows:
        return Bound(rows)
    shares = kept_shares(generations, most_rows)
    of_log = of_some_users(shares.pop((LOG, ""), 1.0))
    cases = " ".join(
        f"WHEN arm = {sql_text(arm)} AND generation = {sql_text(generation)} THEN {of_users(share)[0]}"
        for (arm, generation), share in shares.items()
    )
    of_block: dict[datetime, float] = defaultdict(lambda: decided.share)
    for hour, *generation in db.execute("SELECT DISTINCT hour, arm, generation FROM decided").fetchall():
        hour = hour.astimezone(UTC)
        of_block[hour] = max(of_block[hour], shares.get(tuple(generation), 0.0))
    return Bound(rows, of_log, f"(CASE {cases} ELSE false END)" if cases else "false", of_block.__getitem__)


def _generations(db: Database, share: float, log: Sequence[Path], channels: int) -> list[Touchpoints]:
    """Return the generations; a log without propensities has width 1, an arm without known probabilities width 0."""
    # The expected squared weight of a decision, or its estimate: the log has only the drawn channel's propensity.
    of_drawn = f"({1 / channels!r} / propensity) * ({1 / channels!r} / propensity)"
    of_drawn = of_drawn if "propensity" in pq.read_schema(log[0]).names else "CAST(NULL AS DOUBLE)"
    of_all = f"list_sum(list_transform(channel_probs, lambda p: 1 / greatest(p, 1e-6))) / {channels**2}"
    found = db.execute(
        f"""SELECT arm, generation, count(*) AS touchpoints,
                   coalesce(1 / avg(squared_weight), if(arm = '{LOG}', 1.0, 0.0)) AS width, max(timestamp) AS newest
        FROM (
            SELECT '{LOG}' AS arm, '' AS generation, timestamp, {of_drawn} AS squared_weight
            FROM {table(log)} UNION ALL
            SELECT arm, generation, timestamp, if(propensity IS NULL, NULL, {of_all})
            FROM judged WHERE touchpoint AND {SAMPLED}) AS pool
        GROUP BY arm, generation"""
    ).fetchall()
    # Round the sums, because their last digits depend on the order of addition.
    return [
        Touchpoints(arm, name, rows if arm == LOG else round(rows / share), round(width, 9), newest)
        for arm, name, rows, width, newest in found
    ]


def kept_shares(generations: Sequence[Touchpoints], most_rows: int) -> dict[tuple[str, str], float]:
    """Return the share of users to keep, by arm and generation, for about `most_rows` rows in total."""
    by_age = sorted(generations, key=lambda one: (one.newest, one.generation, one.arm))  # names break ties
    newest = {one.arm: one for one in by_age if one.arm != LOG}
    first = list(newest.values())
    others = sorted((one for one in reversed(by_age) if one not in first), key=lambda one: one.width, reverse=True)
    shares, left = {}, most_rows
    for one in (*first, *others):
        share = min(1.0, max(0.0, left / one.rows))
        shares[one.arm, one.generation] = share
        left -= round(share * one.rows)
    return shares


def of_some_users(share: float) -> str:
    """Return an SQL condition that chooses a share of a log's users, by hash."""
    return f"md5(user_id) < {sql_text(f'{int(share * 16**12):012x}')}" if share < 1 else "true"
