"""Windows in Feast's SQLite store: Feast's own read and write, inside one write transaction.

This is also the plain statement of what an append and a merge are; `append.lua` and `merge.lua` must do the same.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from feast import FeatureView, RepoConfig
from feast.infra.online_stores.sqlite import SqliteOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from features.feature_repo.names import OUTCOME_COLUMNS
from features.online.history import History, HistoryError, Window
from mtorl.log.dataset import DatasetSpec

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PATIENCE_MS = 10_000  # for writers in other processes


class SqliteHistory(History):
    """See `History`.

    Args:
        spec: Description of the data set.
        config: The repository's settings.
        view: The view of the windows.
    """

    def __init__(self, spec: DatasetSpec, config: RepoConfig, view: FeatureView) -> None:
        super().__init__(spec)
        self._config = config
        self._view = view
        self._store = SqliteOnlineStore()
        self._connection = self._store._get_conn(config)
        self._connection.execute(f"PRAGMA busy_timeout = {_PATIENCE_MS}")
        self._connection.execute("PRAGMA journal_mode = WAL")  # readers go on while this writes
        # A commit is safe from a crash of the process; one of the machine may cost the last ones, never the file.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._lock = threading.Lock()  # threads share the connection, and so its transaction

    def close(self) -> None:
        """See `History`."""
        self._connection.close()

    def _insert(self, user_id: str, values: dict[str, float | str]) -> bool:
        with self._transaction():
            window = self._read(user_id)
            times, at = window["hist_timestamp"], values["hist_timestamp"]
            place = bisect_left(times, at)
            if times[place : place + 1] == [at] or place < len(times) + 1 - self._spec.window:
                return False  # there already, or too old
            for name, value in values.items():
                window[name].insert(place, value)
                del window[name][: -self._spec.window]
            self._write({user_id: window})
            return True

    def _overwrite(self, user_id: str, at: float, values: dict[str, float]) -> bool:
        with self._transaction():
            window = self._read(user_id)
            if at not in window["hist_timestamp"]:
                return False
            place = window["hist_timestamp"].index(at)
            for name, value in values.items():
                window[name][place] = value
            self._write({user_id: window})
            return True

    def _join(self, windows: dict[str, Window]) -> int:
        with self._lock:  # most have not changed: a look at all of them, and nobody has to wait for it
            changed = self._changed(windows)
        if not changed:
            return 0
        with self._transaction():
            changed = self._changed({user: windows[user] for user in changed})
            if changed:
                self._write(changed)
            return len(changed)

    def _changed(self, windows: dict[str, Window]) -> dict[str, Window]:
        changed = {}
        for stored, (user, told) in zip(self._stored(list(windows)), windows.items(), strict=True):
            joined = _joined(_whole(stored, self._columns), told, self._spec.window)
            if repr(joined) != repr(stored):  # as text: NaN is not equal to itself
                changed[user] = joined
        return changed

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                self._connection.rollback()  # Feast's write has committed

    def _read(self, user_id: str) -> Window:
        (window,) = self._stored([user_id])
        if len({len(values) for values in window.values()}) > 1:
            raise HistoryError(f"the window of {user_id!r} has columns of different lengths; materialise it again")
        return window

    def _stored(self, users: Sequence[str]) -> list[Window]:
        answer = self._store.online_read(self._config, self._view, [_key(user) for user in users])
        windows = []
        for _, stored in answer:
            window: Window = {}
            for name, number in self._columns.items():
                value = (stored or {}).get(name, Value())
                window[name] = list(value.double_list_val.val if number else value.string_list_val.val)
            windows.append(window)
        return windows

    def _write(self, windows: dict[str, Window]) -> None:
        rows: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]] = []
        for user, window in windows.items():
            values = {name: Value() for name in self._columns}
            for name, number in self._columns.items():
                (values[name].double_list_val if number else values[name].string_list_val).val.extend(window[name])
            newest = _EPOCH + timedelta(microseconds=window["hist_timestamp"][-1])
            rows.append((_key(user), values, newest, datetime.now(UTC)))
        self._store.online_write_batch(self._config, self._view, rows, None)


def _whole(window: Window, columns: dict[str, bool]) -> Window:
    """A window with nulls in a column that the data set did not have before, and empty if it is broken."""
    length = len(window["hist_timestamp"])
    nulls = {name: (0.0 if name in OUTCOME_COLUMNS else math.nan) if number else "" for name, number in columns.items()}
    filled = {name: values or [nulls[name]] * length for name, values in window.items()}
    return filled if all(len(values) == length for values in filled.values()) else {name: [] for name in filled}


def _joined(stored: Window, told: Window, n: int) -> Window:
    """See `History.merge`."""
    touchpoints = {time: {name: stored[name][i] for name in stored} for i, time in enumerate(stored["hist_timestamp"])}
    for i, time in enumerate(told["hist_timestamp"]):
        new, had = {name: told[name][i] for name in stored}, touchpoints.get(time, {})
        if had.get("hist_channel") == new["hist_channel"]:  # else it is another touchpoint
            new |= {name: had[name] for name in OUTCOME_COLUMNS if not new[name] or math.isnan(new[name])}
        touchpoints[time] = new
    newest = sorted(touchpoints)[-n:]
    return {name: [touchpoints[time][name] for time in newest] for name in stored}


def _key(user_id: str) -> EntityKey:
    return EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user_id)])
