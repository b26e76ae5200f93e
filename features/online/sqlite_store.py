"""Stores packed histories of users in Feast's online store on SQLite."""

import itertools
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from feast import FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.sqlite import SqliteOnlineStore, convert_timestamp
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from features.online.history import NOTED_SECONDS, HistoryError
from mtorl.runtime.sqlite_times import read_times_by
from mtorl.window.window import PACKED

_NOTES = "mtorl_feed"
_SCHEMA = (
    f"CREATE TABLE IF NOT EXISTS {_NOTES} (name TEXT, field TEXT, text TEXT, ends REAL, PRIMARY KEY (name, field))"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Time to wait for another process that is writing, in milliseconds.
_BUSY_TIMEOUT_MS = 10_000


class Store:
    """Stores histories of users in SQLite. Also stores the notes of the feed: small texts that expire after a day."""

    def __init__(self, config: RepoConfig, view: FeatureView) -> None:
        self._config, self._view = config, view
        read_times_by(convert_timestamp)
        self._store = SqliteOnlineStore()
        self._connection = self._store._get_conn(config)
        self._connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        # In this mode, a process can read while another one writes.
        self._connection.execute("PRAGMA journal_mode = WAL")
        # If the machine crashes, the last commits may be lost, but the file stays valid.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        # All threads share one connection, so only one of them may have a transaction open.
        self._lock = threading.Lock()

    def read(self, users: Sequence[str]) -> list[bytes | None]:
        """Return the packed history of each user, or None for a user without a history."""
        with self._lock:
            return self._stored(users)

    def swap(self, rows: Sequence[tuple[str, bytes | None, bytes, float]]) -> list[bool]:
        """Store the new histories of users, unless they have changed since they were read. Returns which were stored.

        Args:
            rows: User id, old history, new history, and time of the newest touchpoint in microseconds since 1970.
        """
        if not rows:
            return []
        with self._transaction():
            stored = self._stored([user for user, *_ in rows])
            same = [old == there for (_, old, *_), there in zip(rows, stored, strict=True)]
            now = datetime.now(UTC)
            written: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]] = [
                (_key(user), {PACKED: Value(bytes_val=new)}, _EPOCH + timedelta(microseconds=newest), now)
                for user, _, new, newest in itertools.compress(rows, same)
            ]
            self._store.online_write_batch(self._config, self._view, written, None)  # commits the transaction
            return same

    def note(self, rows: Sequence[tuple[str, str, str, bool]]) -> None:
        """Store notes of the feed, such as the user of a decision.

        Args:
            rows: Name, field and text of each note, and True if the text replaces an earlier one.
        """
        if not rows:
            return
        with self._transaction() as db:
            db.execute(_SCHEMA)
            db.execute(f"DELETE FROM {_NOTES} WHERE ends < ?", (time.time(),))
            for *note, replace in rows:
                verb = "INSERT OR REPLACE" if replace else "INSERT OR IGNORE"
                db.execute(f"{verb} INTO {_NOTES} VALUES (?, ?, ?, ?)", (*note, time.time() + NOTED_SECONDS))
            db.commit()

    def noted(self, places: Sequence[tuple[str, str]]) -> list[str | None]:
        """Return the stored note for each pair of a name and a field, or None if there is none."""
        found = self.notes_of([name for name, _ in places])
        return [notes.get(field) for notes, (_, field) in zip(found, places, strict=True)]

    def notes_of(self, names: Sequence[str]) -> list[dict[str, str]]:
        """Return all notes with each name, as a mapping from field to text."""
        with self._lock:
            self._connection.execute(_SCHEMA)
            query = f"SELECT field, text FROM {_NOTES} WHERE name = ?"
            return [dict(self._connection.execute(query, (name,)).fetchall()) for name in names]

    def memory(self) -> None:
        """Return None, because SQLite has no memory limit."""

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
                self._connection.rollback()  # does nothing after a commit


def forget(config: RepoConfig, users: Collection[str]) -> int:
    """Delete all features of users, and the feed's notes about them. Returns how many users had features."""
    path = Path(config.repo_path or ".") / config.online_store.path
    if not path.exists():
        return 0
    version = config.entity_key_serialization_version
    keys = [(serialize_entity_key(_key(user), entity_key_serialization_version=version),) for user in users]
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_TIMEOUT_MS / 1000, isolation_level=None)) as db:
            db.execute("PRAGMA secure_delete = ON")  # overwrites deleted rows with zeros
            db.execute("BEGIN IMMEDIATE")
            db.execute(_SCHEMA)
            db.executemany(f"DELETE FROM {_NOTES} WHERE text = ?", [(user,) for user in users])
            tables = """SELECT t.name FROM sqlite_master AS t JOIN pragma_table_info(t.name) AS c
                WHERE t.type = 'table' AND c.name = 'entity_key'"""
            found = set()
            for (table,) in db.execute(tables).fetchall():
                deleted = f'DELETE FROM "{table}" WHERE entity_key = ?'
                found |= {key for key in keys if db.execute(deleted, key).rowcount}
            db.execute("COMMIT")
            # The write-ahead log still contains the deleted rows.
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise HistoryError(f"{path}: {error}") from None
    return len(found)


def _key(user: str) -> EntityKey:
    return EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user)])
