"""Histories in Feast's SQLite store: Feast's own read and write, inside one write transaction.

This defines an append and a merge readably; `append.lua` and `merge.lua` must do the same.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from feast import FeatureView, RepoConfig
from feast.infra.online_stores.sqlite import SqliteOnlineStore, convert_timestamp
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from features.online.history import History, HistoryError, UserHistory
from mtorl.log.dataset import DatasetSpec
from mtorl.runtime.sqlite_times import read_times_by

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BUSY_TIMEOUT_MS = 10_000  # how long to wait for writers in other processes


class SqliteHistory(History):
    """Histories in a SQLite file. Threads may share it."""

    def __init__(self, spec: DatasetSpec, config: RepoConfig, view: FeatureView) -> None:
        super().__init__(spec)
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

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _insert(self, user_id: str, values: dict[str, float | str]) -> bool:
        with self._transaction():
            history = self._read(user_id)
            times, at = history["hist_timestamp"], values["hist_timestamp"]
            place = bisect_left(times, at)
            if times[place : place + 1] == [at] or place < len(times) + 1 - self._spec.window:
                return False  # there already, or too old
            for name, value in values.items():
                history[name].insert(place, value)
                del history[name][: -self._spec.window]
            self._write({user_id: history})
            return True

    def _overwrite(self, user_id: str, at: float, values: dict[str, float]) -> bool:
        with self._transaction():
            history = self._read(user_id)
            if at not in history["hist_timestamp"]:
                return False
            place = history["hist_timestamp"].index(at)
            for name, value in values.items():
                history[name][place] = value
            self._write({user_id: history})
            return True

    def _merge(self, logged: dict[str, UserHistory]) -> int:
        # Most histories have not changed. Finding those that have takes no write transaction, so nobody has to wait.
        with self._lock:
            changed = self._merged(logged)
        if not changed:
            return 0
        with self._transaction():
            changed = self._merged({user: logged[user] for user in changed})
            if changed:
                self._write(changed)
            return len(changed)

    def _merged(self, logged: dict[str, UserHistory]) -> dict[str, UserHistory]:
        """The merged histories, of those users whose stored one is another."""
        changed = {}
        for stored, (user, from_log) in zip(self._stored(list(logged)), logged.items(), strict=True):
            merged = _merge(_repaired(stored, self._columns, self._unknown), from_log, self._spec.window, self._unknown)
            if repr(merged) != repr(stored):  # compared as text, because NaN is not equal to itself
                changed[user] = merged
        return changed

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                self._connection.rollback()  # Feast's write has committed

    def _read(self, user_id: str) -> UserHistory:
        (history,) = self._stored([user_id])
        if len({len(values) for values in history.values()}) > 1:
            raise HistoryError(f"the history of {user_id!r} has columns of different lengths; materialise it again")
        return history

    def _stored(self, users: Sequence[str]) -> list[UserHistory]:
        rows = self._store.online_read(self._config, self._view, [_key(user) for user in users])
        histories = []
        for _, stored in rows:
            history: UserHistory = {}
            for name, number in self._columns.items():
                value = (stored or {}).get(name, Value())
                history[name] = list(value.double_list_val.val if number else value.string_list_val.val)
            histories.append(history)
        return histories

    def _write(self, histories: dict[str, UserHistory]) -> None:
        rows: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]] = []
        for user, history in histories.items():
            values = {name: Value() for name in self._columns}
            for name, number in self._columns.items():
                (values[name].double_list_val if number else values[name].string_list_val).val.extend(history[name])
            newest = _EPOCH + timedelta(microseconds=history["hist_timestamp"][-1])
            rows.append((_key(user), values, newest, datetime.now(UTC)))
        self._store.online_write_batch(self._config, self._view, rows, None)


def _repaired(stored: UserHistory, columns: dict[str, bool], unknown: Mapping[str, float]) -> UserHistory:
    """A stored history with nulls in a column that the data set did not have before, and empty if it is broken."""
    length = len(stored["hist_timestamp"])
    nulls = {name: unknown.get(name, math.nan) if number else "" for name, number in columns.items()}
    filled = {name: values or [nulls[name]] * length for name, values in stored.items()}
    return filled if all(len(values) == length for values in filled.values()) else {name: [] for name in filled}


def _merge(stored: UserHistory, logged: UserHistory, n: int, outcomes: Collection[str]) -> UserHistory:
    """The newest n touchpoints of both, as `History.merge` defines it."""
    by_time = {time: {name: stored[name][i] for name in stored} for i, time in enumerate(stored["hist_timestamp"])}
    for i, time in enumerate(logged["hist_timestamp"]):
        new, old = {name: logged[name][i] for name in stored}, by_time.get(time, {})
        if old.get("hist_channel") == new["hist_channel"]:  # else it is another touchpoint
            new |= {name: old[name] for name in outcomes if not new[name] or math.isnan(new[name])}
        by_time[time] = new
    newest = sorted(by_time)[-n:]
    return {name: [by_time[time][name] for time in newest] for name in stored}


def _key(user_id: str) -> EntityKey:
    return EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user_id)])
