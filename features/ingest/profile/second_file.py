"""Describes a second file, with outcomes: its key to the log's touchpoints, its times and its amounts.

    found = look_at(engine, Path("orders.csv"), table_of_the_log, ids=["imp_id"], user="uid", scratch=scratch)

The key shows by its values: most of them stand in a column of the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis

from features.engine import Engine
from features.ingest.adapters import values
from features.ingest.profile.facts import Look, day_or_month, rank, source_of_amount, source_of_time
from mtorl.log.touchpoints import LogError

_SOME = 0.05  # of the rows have a value of the log, where a column is the key
_TIME = ("ordered", "converted", "purchased", "timestamp", "time", "ts", "date", "at", "created")
_EVENT = ("event", "order", "orderid", "transaction", "purchase", "receipt", "invoice", "id")
_REVENUE = ("revenue", "profit", "margin", "income", "gmv", "amount", "total", "sales", "value", "price")


@dataclass(frozen=True)
class Found:
    """The `columns`, `file` and outcomes of `conversions` in a description, with checks and notes."""

    columns: Mapping[str, Any]
    touchpoint_id: str  # the log's column with the ids; empty if rows are joined by user
    outcomes: tuple[str, ...]
    checks: tuple[str, ...]
    notes: tuple[str, ...]
    file: Mapping[str, Any]


def look_at(engine: Engine, path: Path, log: ibis.Table, ids: Sequence[str], user: str, scratch: Path) -> Found:
    """Describe a second file; `ids` are columns of the log with another value in each row, `user` is its user."""
    look = Look.into(engine, path, scratch)
    facts, rows, names = look.facts, look.rows, list(look.facts)
    key, other, share = _key(path, look, log, (*ids, user))
    free = [name for name in names if name != key]
    times = [name for name in free if facts[name].time]
    time = _best(times, _TIME) or next(iter(times), "")
    if not time:
        raise LogError(f"{path}: no column of it holds times; its columns: {', '.join(names)}")
    event = _best([n for n in free if n != time and facts[n].present == rows and facts[n].distinct > rows / 2], _EVENT)
    numbers = [name for name in free if name not in (time, event) and facts[name].numeric]
    revenue = _best(numbers, _REVENUE)
    columns: dict[str, Any] = {"user_id" if other == user else "touchpoint_id": key}
    columns |= {"event_id": event} if event else {}
    columns["timestamp"] = source_of_time(facts[time])
    columns["conversion"] = {"value": 1}
    columns |= {"revenue": source_of_amount(facts[revenue])} if revenue else {}
    said = "of the user" if other == user else f"whose {other} it names"
    notes = [
        f"conversions: a row counts for the newest touchpoint before it {said}, since {share:.0%} of the values of "
        f"{key!r} stand in the log's {other!r}"
    ]
    if unread := [name for name in numbers if name != revenue]:
        notes.append(
            f"conversions: {', '.join(unread)} not read; a column may tell revenue (in cents: {{column: {unread[0]}, "
            "per: 100}), click, or an outcome of yours"
        )
    if times[1:]:
        notes.append(f"conversions: {time!r} is taken for the time of a row; {', '.join(times)} hold times")
    if columns["timestamp"] == time:
        notes.append(
            f"conversions: times of {time!r} that name no zone are in UTC; else write {{column: {time}, timezone: "
            "Europe/Berlin}, for instance"
        )
    if columns.get("revenue") == revenue != "":
        notes.append(f"conversions: {revenue!r} is the revenue as it stands; of cents: {{column: {revenue}, per: 100}}")
    checks = tuple(f"conversions: {words}" for words in (day_or_month(facts[time]), look.dialect.question) if words)
    outcomes = tuple(name for name in columns if name in ("conversion", "revenue"))
    return Found(columns, "" if other == user else other, outcomes, checks, tuple(notes), look.dialect.file)


def _key(path: Path, look: Look, log: ibis.Table, others: Sequence[str]) -> tuple[str, str, float]:
    """Its column and that of the log by which the files belong together, and how many rows have a value of the log.

    The last of the `others`, columns of the log, is its user.
    """
    best = (0, "", "", 0.0)
    for other in others:
        there = log.select(key=values.text(log[other])).distinct()
        for own in look.facts:
            known = look.table.select(key=values.text(look.table[own])).semi_join(there, "key")
            found = known.agg(rows=known.count(), different=known["key"].nunique()).to_pyarrow().to_pylist()[0]
            # Few rows are of one touchpoint: small numbers that come again and again are no ids of touchpoints.
            if found["rows"] > _SOME * look.rows and (other == others[-1] or found["different"] > found["rows"] / 2):
                candidate = (found["different"], own, other, found["rows"] / look.rows)
                best = max(best, candidate, key=lambda pair: pair[0])
    if not best[0]:
        raise LogError(
            f"{path}: no column of it has ids or users of the log; describe the file by hand, see docs/data.md"
        )
    return best[1:]


def _best(names: Sequence[str], words: Sequence[str]) -> str:
    fitting = [(place, i, name) for i, name in enumerate(names) if (place := rank(name, words)) is not None]
    return min(fitting)[2] if fitting else ""
