"""What the feed has heard of decisions and outcomes: one SQLite file, durable before anything is acknowledged.

Decisions and outcomes arrive in any order, more than once, and weeks apart from each other; here they meet.
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

_SCHEMA = """
CREATE TABLE IF NOT EXISTS exposure (
    decision TEXT PRIMARY KEY, user TEXT NOT NULL, shown TEXT NOT NULL, channel TEXT NOT NULL, context TEXT NOT NULL,
    withdrawn INTEGER NOT NULL, heard REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS outcome (
    event TEXT PRIMARY KEY, decision TEXT NOT NULL, kind TEXT NOT NULL, value REAL NOT NULL, heard REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS outcome_of ON outcome (decision);
CREATE INDEX IF NOT EXISTS exposure_age ON exposure (heard);
CREATE INDEX IF NOT EXISTS outcome_age ON outcome (heard);
"""


@dataclass(frozen=True)
class Shown:
    """A touchpoint of a user with the outcomes that are known of it."""

    user_id: str
    touchpoint: Touchpoint


class Journal:
    """The file. One process may have it open; its threads share it.

    Args:
        path: Made if it does not exist.

    Raises:
        OSError, sqlite3.Error: it can't be used.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._lock = threading.Lock()
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")  # two feeds would each know half of a decision
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_SCHEMA)

    def note(self, decisions: Iterable[Mapping[str, Any]], outcomes: Iterable[Mapping[str, Any]]) -> set[str]:
        """Write down records of the decision log; what is known already changes nothing.

        Returns:
            Decisions that they are about.
        """
        now, about = time.time(), set[str]()
        with self._transaction() as db:
            for record in decisions:
                about.add(record["decision_id"])
                if not record["expose"] and not record["withdrawn"]:
                    continue  # the only record of a decision that showed nothing
                # Of two records the withdrawal counts, in whatever order they arrive (`mtorl.log.records`).
                db.execute(
                    "INSERT INTO exposure VALUES (?, ?, ?, ?, ?, ?, ?) "
                    "ON CONFLICT DO UPDATE SET withdrawn = max(withdrawn, excluded.withdrawn)",
                    (
                        record["decision_id"],
                        record["user_id"],
                        record["event_time"],
                        record["channel"],
                        json.dumps(record["context"]),
                        record["withdrawn"],
                        now,
                    ),
                )
            for record in outcomes:
                about.add(record["decision_id"])
                db.execute(
                    "INSERT OR IGNORE INTO outcome VALUES (?, ?, ?, ?, ?)",
                    (record["event_id"], record["decision_id"], record["kind"], record["value"], now),
                )
        return about

    def shown(self, decision: str) -> Shown | None:
        """The touchpoint that a decision has become; None if nothing was shown, or nothing is heard of it yet."""
        with self._lock:
            exposure = self._db.execute(
                "SELECT user, shown, channel, context FROM exposure WHERE decision = ? AND NOT withdrawn", (decision,)
            ).fetchone()
            outcomes = self._db.execute(
                "SELECT kind, value FROM outcome WHERE decision = ? ORDER BY rowid", (decision,)
            ).fetchall()
        kinds = {kind for kind, _ in outcomes}
        if exposure is None or not kinds or "cancel" in kinds:
            return None
        known = {kind: _together(kind, [value for name, value in outcomes if name == kind]) for kind in kinds}
        user, shown, channel, context = exposure
        return Shown(user, Touchpoint(datetime.fromisoformat(shown), channel, json.loads(context), known))

    def forget(self, seconds: float) -> int:
        """Drop what was heard longer ago; returns how many records that were."""
        before = (time.time() - seconds,)
        with self._transaction() as db:
            return sum(db.execute(f"DELETE FROM {t} WHERE heard < ?", before).rowcount for t in ("exposure", "outcome"))

    def close(self) -> None:
        """Let go of the file."""
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


def _together(kind: str, values: list[float]) -> float:
    """Several outcomes of one kind: revenue adds up, a cost is charged once, a click is a click."""
    if kind == "revenue":
        return sum(values)
    return values[0] if kind == "cost" else float(any(values))
