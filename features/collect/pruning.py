"""Chooses which exposures a training reads if there are too many, and leaves out the least informative ones first.

A generation is the first log, or the exposures of one model in one arm. Its *width* says how much its exposures tell
about other channels. It is Kish's effective sample size for evaluating a policy that draws all channels with equal
probability, divided by the number of exposures. The width is 1 if channels were drawn at random, and close to 0 if the
policy nearly always showed one channel.

A model that is trained on narrow exposures alone predicts badly, so the rules are:

- The newest generation of each arm is always kept. Its exposures come from the serving model, and show how users react
  to this model.
- Of the other generations, those with the smallest width are left out first. Of two with equal width, the older one is
  left out.
- If a generation fits only in part, whole users are chosen by a hash of their id.
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
"""Name that stands for the arm of the first log, because no arm of an experiment has collected it."""


class Touchpoints(NamedTuple):
    """Statistics of one generation: the exposures of one model in one arm, or the first log.

    Attributes:
        generation: Digest or name of the model. Empty for the first log.
        width: 1 if the model drew channels uniformly at random, near 0 if it always drew the same channel.
    """

    arm: str
    generation: str
    rows: int
    width: float
    newest: datetime


@dataclass(frozen=True)
class Bound:
    """SQL conditions for the rows that a training reads if there are too many.

    Attributes:
        share_of: Function that returns the share of users to read from a block of hours, given its first hour.
    """

    rows: int = 0
    of_log: str = "true"
    of_judged: str = "true"
    share_of: Callable[[datetime], float] = lambda _: 1.0


def bound(db: Database, decided: Decided, log: Sequence[Path], channels: int, most_rows: int) -> Bound:
    """Choose which exposures a training reads from the first log and from the collected decisions.

    Args:
        most_rows: Approximate number of touchpoints to read in total. 0 means all.
    """
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
    """Count the exposures of each model in each arm, and measure their `width`."""
    # The weight of an exposure is (1 / number of channels) / propensity. Width is 1 / (mean of squared weights).
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
    # The last digits of a sum depend on the order of addition, so rounding makes the result reproducible.
    return [
        Touchpoints(arm, name, rows if arm == LOG else round(rows / share), round(width, 9), newest)
        for arm, name, rows, width, newest in found
    ]


def kept_shares(generations: Sequence[Touchpoints], most_rows: int) -> dict[tuple[str, str], float]:
    """Return the share of users to keep for each arm and generation, so that about `most_rows` exposures remain."""
    by_age = sorted(generations, key=lambda one: (one.newest, one.generation, one.arm))
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
    """Return an SQL condition that selects a share of a log's users by a hash of the user id."""
    return f"md5(user_id) < {sql_text(f'{int(share * 16**12):012x}')}" if share < 1 else "true"
