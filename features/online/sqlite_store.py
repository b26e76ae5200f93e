"""Packed histories in Feast's SQLite store: Feast's own read and write, inside one write transaction."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from feast import FeatureView, RepoConfig
from feast.infra.online_stores.sqlite import SqliteOnlineStore, convert_timestamp
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from mtorl.runtime.sqlite_times import read_times_by
from mtorl.window.window import PACKED

NOTES = "mtorl_feed"  # table of the feed's notes
_SCHEMA = f"CREATE TABLE IF NOT EXISTS {NOTES} (name TEXT, field TEXT, text TEXT, ends REAL, PRIMARY KEY (name, field))"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BUSY_TIMEOUT_MS = 10_000  # how long to wait for writers in other processes


class SqliteStore:
    """Packed histories in a SQLite file. Threads may share it."""

    def __init__(self, config: RepoConfig, view: FeatureView) -> None:
        self._config = config
        self._view = view
        read_times_by(convert_timestamp)
        self._store = SqliteOnlineStore()
        self._connection = self._store._get_conn(config)
        self._connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        self._connection.execute("PRAGMA journal_mode = WAL")  # readers go on while this writes
        # A commit is safe from a crash of the process; one of the machine may cost the last ones, never the file.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._lock = threading.Lock()  # threads share the connection, and so its transactions

    def read(self, users: Sequence[str]) -> list[bytes | None]:
        """The value of each user."""
        with self._lock:
            return self._stored(users)

    def swap(self, rows: Sequence[tuple[str, bytes | None, bytes, float]]) -> list[bool]:
        """Store values, each unless it has changed since it was read."""
        if not rows:
            return []
        with self._transaction():
            same = [
                old == now for (_, old, *_), now in zip(rows, self._stored([user for user, *_ in rows]), strict=True)
            ]
            now = datetime.now(UTC)
            written: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]] = [
                (_key(user), {PACKED: Value(bytes_val=new)}, _EPOCH + timedelta(microseconds=newest), now)
                for (user, _, new, newest), unchanged in zip(rows, same, strict=True)
                if unchanged
            ]
            if written:
                self._store.online_write_batch(self._config, self._view, written, None)  # commits
            return same

    def note(self, rows: Sequence[tuple[str, str, str, bool]], seconds: float) -> None:
        """Store texts for so many seconds."""
        if not rows:
            return
        with self._transaction() as db:
            db.execute(_SCHEMA)
            db.execute(f"DELETE FROM {NOTES} WHERE ends < ?", (time.time(),))
            for *note, replace in rows:
                verb = "INSERT OR REPLACE" if replace else "INSERT OR IGNORE"
                db.execute(f"{verb} INTO {NOTES} VALUES (?, ?, ?, ?)", (*note, time.time() + seconds))
            db.commit()

    def noted(self, places: Sequence[tuple[str, str]]) -> list[str | None]:
        """The text of each name and field."""
        return [
            found.get(field) for (_, field), found in zip(places, self.all_noted([n for n, _ in places]), strict=True)
        ]

    def all_noted(self, names: Sequence[str]) -> list[dict[str, str]]:
        """The fields of each name, with their texts."""
        with self._lock:
            self._connection.execute(_SCHEMA)
            query = f"SELECT field, text FROM {NOTES} WHERE name = ?"
            return [dict(self._connection.execute(query, (name,)).fetchall()) for name in names]

    def memory(self) -> None:
        """No limit of its own."""

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _stored(self, users: Sequence[str]) -> list[bytes | None]:
        rows = self._store.online_read(self._config, self._view, [_key(user) for user in users])
        return [stored[PACKED].bytes_val or None if stored and PACKED in stored else None for _, stored in rows]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            finally:
                self._connection.rollback()  # a write has committed


def _key(user: str) -> EntityKey:
    return EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user)])
