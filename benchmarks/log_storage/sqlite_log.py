"""The decision log as one SQLite database: a prototype with what `serving.decision_log.Spool` promises, to be measured.

Like the spool it has one thread that writes, and one commit for all that gathered meanwhile (write-ahead log,
`synchronous = FULL`). The tables' indexes take the place of the index in memory, row numbers that of positions, and
DELETE that of removing segments.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from mtorl.log.records import Kind
from serving.decision_log import Status

_SCHEMA = """
CREATE TABLE IF NOT EXISTS decision (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, decided REAL NOT NULL, written REAL NOT NULL,
    reservation TEXT, line BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS decision_id ON decision (id);
CREATE TABLE IF NOT EXISTS outcome (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, written REAL NOT NULL, line BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS shipped (kind TEXT PRIMARY KEY, number INTEGER NOT NULL);
"""
_LARGEST_BATCH = 512
_LATE_SECONDS = 7 * 86_400.0
_DELETED_AT_ONCE = 1000

Entry = tuple[Kind, Mapping[str, Any], Future[Status]]


class SqliteLog:
    """A folder with a database of decision and outcome records.

    Args:
        folder: Made if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._queue: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._db = self._connect()
        self._db.executescript(_SCHEMA)
        self._reader = self._connect()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, kind: Kind, record: Mapping[str, Any]) -> Future[Status]:
        """Write a record; the future ends when it is durable."""
        done: Future[Status] = Future()
        self._queue.put((kind, record, done))
        return done

    def read(self, kind: Kind, after: int, most: int) -> list[tuple[int, bytes]]:
        """Numbers and lines of the records behind a number."""
        return self._reader.execute(
            f"SELECT number, line FROM {kind} WHERE number > ? ORDER BY number LIMIT ?", (after, most)
        ).fetchall()

    def newest(self, kind: Kind) -> int:
        """Number of the newest record."""
        (number,) = self._reader.execute(f"SELECT max(number) FROM {kind}").fetchone()
        return int(number or 0)

    def note_shipped(self, kind: Kind, number: int) -> None:
        """Make durable how far the log is shipped."""
        self._reader.execute("INSERT OR REPLACE INTO shipped VALUES (?, ?)", (kind, number))

    def prune(self, shipped: Mapping[Kind, int], before: float, open_reservations: Collection[str]) -> None:
        """Delete what is shipped and old, but no decision whose reservation is open; a few rows a transaction."""
        self._reader.execute("CREATE TEMP TABLE open_reservation (id TEXT PRIMARY KEY)")
        self._reader.executemany("INSERT INTO open_reservation VALUES (?)", [(name,) for name in open_reservations])
        for kind, number in shipped.items():
            keep = "AND id NOT IN (SELECT id FROM open_reservation)" if kind == "decision" else ""
            for first in range(0, number, _DELETED_AT_ONCE):
                last = min(first + _DELETED_AT_ONCE, number)
                self._reader.execute(
                    f"DELETE FROM {kind} WHERE number > ? AND number <= ? AND written < ? {keep}", (first, last, before)
                )

    def close(self) -> None:
        """Write what waits, and let go of the database."""
        self._queue.put(None)
        self._thread.join()
        self._reader.close()
        self._db.close()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.folder / "log.sqlite", isolation_level=None, check_same_thread=False, timeout=60)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA cache_size = -65536")
        return db

    def _run(self) -> None:
        closing = False
        while not closing:
            entries = [self._queue.get()]
            while len(entries) < _LARGEST_BATCH and not self._queue.empty():
                entries.append(self._queue.get_nowait())
            closing = None in entries
            batch = [entry for entry in entries if entry is not None]
            if not batch:
                continue
            self._db.execute("BEGIN IMMEDIATE")
            statuses = [self._insert(kind, record) for kind, record, _ in batch]
            self._db.execute("COMMIT")
            for (_, _, done), status in zip(batch, statuses, strict=True):
                done.set_result(status)

    def _insert(self, kind: Kind, record: Mapping[str, Any]) -> Status:
        at, now, line = datetime.fromisoformat(record["event_time"]).timestamp(), time.time(), orjson.dumps(record)
        if kind == "decision":
            self._db.execute(
                "INSERT INTO decision (id, decided, written, reservation, line) VALUES (?, ?, ?, ?, ?)",
                (record["decision_id"], at, now, record["reservation_id"], line),
            )
            return "accepted"
        row = (record["event_id"], now, line)
        if not self._db.execute("INSERT OR IGNORE INTO outcome (id, written, line) VALUES (?, ?, ?)", row).rowcount:
            return "duplicate"
        decided = self._db.execute("SELECT decided FROM decision WHERE id = ?", (record["decision_id"],)).fetchone()
        if decided is None:
            return "dangling"
        return "late" if at - decided[0] > _LATE_SECONDS else "accepted"
