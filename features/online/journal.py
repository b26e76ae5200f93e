"""Stores decisions and outcomes for the feed: one SQLite file, durable before any event is acknowledged.

The records of a decision and of its outcomes arrive in any order, more than once, and days apart. The journal keeps
them until all that belongs to one decision can be put together.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from features.online.history import Touchpoint
from mtorl.log.dataset import EVENTS
from mtorl.log.forgotten import Forgotten

# `heard` is when a record arrived.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS exposure (
    decision TEXT PRIMARY KEY, user TEXT NOT NULL, shown TEXT NOT NULL, channel TEXT NOT NULL, context TEXT NOT NULL,
    withdrawn INTEGER NOT NULL, heard REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS outcome (
    event TEXT PRIMARY KEY, decision TEXT NOT NULL, kind TEXT NOT NULL, value REAL NOT NULL, heard REAL NOT NULL,
    known TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS outcome_of ON outcome (decision);
CREATE INDEX IF NOT EXISTS exposure_age ON exposure (heard);
CREATE INDEX IF NOT EXISTS outcome_age ON outcome (heard);
"""


@dataclass(frozen=True)
class Shown:
    """A touchpoint of a user, with the outcomes that are known so far."""

    user_id: str
    touchpoint: Touchpoint


class Journal:
    """The journal file, made if it does not exist. One process may have it open at a time; its threads share it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._lock = threading.Lock()
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")  # of two feeds, each would have half of the records
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_SCHEMA)

    def record(self, decisions: Iterable[Mapping[str, Any]], outcomes: Iterable[Mapping[str, Any]]) -> set[str]:
        """Store records of the decision log; one that is stored already changes nothing.

        Returns the ids of the decisions that the records are about.
        """
        now, decision_ids = time.time(), set[str]()
        with self._transaction() as db:
            for record in decisions:
                decision_ids.add(record["decision_id"])
                if not record["expose"] and not record["withdrawn"]:
                    continue  # a decision to show nothing becomes no touchpoint
                # Of two records the withdrawal counts, in whatever order they arrive (`mtorl.log.records`).
                db.execute(
                    "INSERT INTO exposure "
                    "VALUES (:decision_id, :user_id, :request_time, :channel, :context, :withdrawn, :now) "
                    "ON CONFLICT DO UPDATE SET withdrawn = max(withdrawn, excluded.withdrawn)",
                    {**record, "context": json.dumps(record["context"]), "now": now},
                )
            for record in outcomes:
                decision_ids.add(record["decision_id"])
                db.execute(
                    "INSERT OR IGNORE INTO outcome "
                    "VALUES (:event_id, :decision_id, :kind, :value, :now, :received_time)",
                    {**record, "now": now},
                )
        return decision_ids

    def shown(self, decision: str) -> Shown | None:
        """The touchpoint of a decision; None if nothing was shown, or if no outcome has arrived yet."""
        with self._lock:
            exposure = self._db.execute(
                "SELECT user, shown, channel, context FROM exposure WHERE decision = ? AND NOT withdrawn", (decision,)
            ).fetchone()
            outcomes = self._db.execute(
                "SELECT kind, value, known FROM outcome WHERE decision = ? ORDER BY rowid", (decision,)
            ).fetchall()
        kinds = {kind for kind, *_ in outcomes}
        if exposure is None or not kinds or "cancel" in kinds:
            return None
        totals = {kind: _total(kind, [value for name, value, _ in outcomes if name == kind]) for kind in kinds}
        known = {
            # An event is known with its first report, an amount is the sum that is known with the last.
            kind: (min if kind in EVENTS else max)(
                datetime.fromisoformat(time) for name, value, time in outcomes if name == kind and value
            )
            for kind, total in totals.items()
            if total
        }
        user, shown, channel, context = exposure
        return Shown(user, Touchpoint(datetime.fromisoformat(shown), channel, json.loads(context), totals, known))

    def forget(self, seconds: float) -> int:
        """Delete what was received longer ago than so many seconds; returns the number of records."""
        before = (time.time() - seconds,)
        with self._transaction() as db:
            return sum(db.execute(f"DELETE FROM {t} WHERE heard < ?", before).rowcount for t in ("exposure", "outcome"))

    def forget_users(self, forgotten: Forgotten) -> int:
        """Delete what belongs to users who were forgotten; returns the number of records."""

        def is_forgotten(user: str, shown: str) -> bool:
            return forgotten.has(user, datetime.fromisoformat(shown))

        with self._transaction() as db:
            db.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten
            db.create_function("is_forgotten", 2, is_forgotten, deterministic=True)
            db.execute("CREATE TEMP TABLE gone AS SELECT decision FROM exposure WHERE is_forgotten(user, shown)")
            of_them = "WHERE decision IN (SELECT decision FROM gone)"
            deleted = sum(db.execute(f"DELETE FROM {t} {of_them}").rowcount for t in ("exposure", "outcome"))
            db.execute("DROP TABLE gone")
        if deleted:
            with self._lock:
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # it holds what the pages were
        return deleted

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")


def _total(kind: str, values: list[float]) -> float:
    """Several outcomes of one kind as one: amounts and costs add up, as in the ledger; a click is a click."""
    return float(any(values)) if kind in EVENTS else sum(values)
