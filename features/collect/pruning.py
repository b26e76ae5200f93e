"""Chooses the exposures that a training keeps when there are too many: wide generations stay longest.

A generation is the first log, or the exposures of one model in one arm. Its *width* is the effective sample of a policy
that draws every channel alike, as a share of its rows (Kish): one over the mean of that policy's squared weight. A log
of random exposures has width 1; a policy that nearly always shows one channel is close to 0. Training on narrow
exposures alone breaks the heads, so

- the newest generation of each arm stays: it is what serves, at the states that it leads to
- of the others, the narrowest go first, the older of two alike
- of the one that fits in part, whole users stay, chosen by a hash
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from features.collect.database import Database
from features.engine import text

LOG = ""
"""Arm of the log that everything began with."""


@dataclass(frozen=True)
class Touchpoints:
    """The exposures of a generation."""

    arm: str
    generation: str
    rows: int
    width: float
    newest: datetime


def squared_weight(channels: int) -> str:
    """SQL: expectation of the squared weight of a decision, from channel_probs; null if they are not known."""
    return f"list_sum(list_transform(channel_probs, lambda p: 1 / greatest(p, 1e-6))) / {channels**2}"


def squared_weight_of_log(channels: int) -> str:
    """SQL: the squared weight of a row of the log, which has the propensity of the drawn channel alone."""
    return f"({1 / channels!r} / propensity) * ({1 / channels!r} / propensity)"


def generations_of(db: Database, touchpoints: str) -> list[Touchpoints]:
    """The generations of a table with the columns arm, generation, timestamp and squared_weight.

    A log without propensities is taken for one of random exposures; an arm without probabilities has width 0.
    """
    unknown = f"if(arm = {text(LOG)}, 1.0, 0.0)"
    found = db.execute(
        f"""SELECT arm, generation, count(*) AS touchpoints, coalesce(1 / avg(squared_weight), {unknown}) AS width,
                   max(timestamp) AS newest
        FROM {touchpoints} GROUP BY arm, generation"""
    ).fetchall()
    # What differs in the last digits, which depend on the order in which numbers were added, is alike.
    return [Touchpoints(arm, name, rows, round(width, 9), newest) for arm, name, rows, width, newest in found]


def kept_shares(generations: Sequence[Touchpoints], most_rows: int) -> dict[tuple[str, str], float]:
    """Share of each generation's users to keep, by arm and generation, so that about `most_rows` rows are left."""
    by_age = sorted(generations, key=lambda one: (one.newest, one.generation, one.arm))  # names decide what is alike
    newest = {one.arm: one for one in by_age if one.arm != LOG}
    first = list(newest.values())
    others = sorted((one for one in reversed(by_age) if one not in first), key=lambda one: one.width, reverse=True)
    shares, left = {}, most_rows
    for one in (*first, *others):
        share = min(1.0, max(0.0, left / one.rows))
        shares[one.arm, one.generation] = share
        left -= round(share * one.rows)
    return shares


def kept(shares: dict[tuple[str, str], float]) -> str:
    """SQL: whether a row stays, from its arm, generation and user."""
    cases = " ".join(
        f"WHEN arm = {text(arm)} AND generation = {text(generation)} THEN {of_some_users(share)}"
        for (arm, generation), share in shares.items()
    )
    return f"(CASE {cases} END)"


def of_some_users(share: float, name: str = "user_id") -> str:
    """SQL: whether a row is of the users whose hash chooses them; another name than the id is another choice."""
    return f"md5({name}) < {text(f'{int(share * 16**12):012x}')}" if share < 1 else "true"
