"""Writes the newest feature rows of the offline store into the online store, but never over newer ones.

A batch job reads a log that ended some time ago; another job may have written newer rows already. Feast compares the
stored times on Redis before it writes, and on SQLite not at all. Here comparing and writing is one step: a script on
Redis, a transaction on SQLite. Histories, to which touchpoints are appended meanwhile, are merged instead
(`features.online.history`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BUSY_TIMEOUT_MS = 30_000  # how long to wait for writers in other processes
_NEVER = datetime.min  # where no time is stored


def newest_rows(store: FeatureStore, view: FeatureView, end: datetime) -> pa.Table:
    """The newest row of each key that had happened and was known at `end`."""
    provider: Any = store._get_provider()
    source = view.batch_source
    assert source is not None
    answer: pa.Table = provider.offline_store.pull_latest_from_table_or_query(
        store.config,
        source,
        view.join_keys,
        [field.name for field in view.features],
        source.timestamp_field,
        source.created_timestamp_column,
        _EPOCH,
        end,
    ).to_arrow()
    return answer


def write(store: FeatureStore, view: FeatureView, rows: pa.Table) -> int:
    """Write rows, one for each key, in short transactions, and return how many differed from what was stored."""
    from feast.utils import _convert_arrow_to_proto

    provider: Any = store._get_provider()
    online = provider.online_store
    config = store.config
    keys = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    size, written = config.materialization_config.online_write_batch_size or 500, 0
    for start in range(0, rows.num_rows, size):
        # In one piece, because Feast reads the first chunk of a column only.
        batch = _convert_arrow_to_proto(rows.slice(start, size).combine_chunks(), view, keys)
        if config.online_store.type == "redis":
            from features.online.redis_store import write_newest

            written += write_newest(online._get_client(config.online_store), config, view, batch)
            continue
        with _transaction(online._get_conn(config)) as connection:
            if newer := _newer(connection, config, view, batch):
                online.online_write_batch(config, view, newer, None)  # commits
                written += len(newer)
    return written


def _newer(connection: Any, config: Any, view: FeatureView, batch: list[Any]) -> list[Any]:
    """The rows of a batch that change what the store has, and are not older, by event time, then by creation."""
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.infra.online_stores.sqlite import _quote_id, _table_id
    from feast.utils import to_naive_utc

    table = _quote_id(_table_id(config.project, view, config.registry.enable_online_feature_view_versioning))
    version = config.entity_key_serialization_version
    query = f"SELECT feature_name, value, event_ts, created_ts FROM {table} WHERE entity_key = ?"
    newer = []
    for row in batch:
        key, values, event, created = row
        wanted = (serialize_entity_key(key, entity_key_serialization_version=version),)
        stored = {name: (value, *times) for name, value, *times in connection.execute(query, wanted)}
        # Feast stores times without microseconds.
        times = [time and to_naive_utc(time).replace(microsecond=0) for time in (event, created)]
        new = {name: (value.SerializeToString(), *times) for name, value in values.items()}
        before = max(([time or _NEVER for time in stored_times] for _, *stored_times in stored.values()), default=[])
        if new != stored and [time or _NEVER for time in times] >= before:
            newer.append(row)
    return newer


@contextmanager
def _transaction(connection: Any) -> Iterator[Any]:
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    connection.execute("BEGIN IMMEDIATE")  # nobody else writes between the comparison and the write
    try:
        yield connection
    finally:
        connection.rollback()  # does nothing after a write, which has committed
