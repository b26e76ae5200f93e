"""Newest feature rows from the offline store into the online store, never over something newer.

A batch job reads a log that ends some time ago, and another may have been there before it. Feast looks at the stored
times before it writes on Redis, and not at all on SQLite; here both happen in one step: a script, or a transaction.
Histories, to which touchpoints are appended meanwhile, are merged instead: see `features.online.history`.
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
_PATIENCE_MS = 30_000  # for writers in other processes
_OLD = datetime.min


def newest_rows(store: FeatureStore, view: FeatureView, end: datetime) -> pa.Table:
    """The newest row of each key that had happened, and was known, at a time."""
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


def write(store: FeatureStore, view: FeatureView, rows: pa.Table) -> None:
    """Write rows, one for each key, in short transactions; readers in other processes see each key before or after.

    Args:
        store: The opened repository.
        view: Where the rows belong.
        rows: Join keys, features and times.
    """
    from feast.utils import _convert_arrow_to_proto

    provider: Any = store._get_provider()
    online = provider.online_store
    config = store.config
    keys = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    size = config.materialization_config.online_write_batch_size or 500
    for start in range(0, rows.num_rows, size):
        # Feast reads the first chunk of a column only.
        batch = _convert_arrow_to_proto(rows.slice(start, size).combine_chunks(), view, keys)
        if config.online_store.type == "redis":
            from features.online.redis_history import write_newest

            write_newest(online._get_client(config.online_store), config, view, batch)
            continue
        with _transaction(online._get_conn(config)) as connection:
            if newer := _newer(connection, config, view, batch):
                online.online_write_batch(config, view, newer, None)  # commits


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
        times = [time and to_naive_utc(time).replace(microsecond=0) for time in (event, created)]  # as it keeps them
        told = {name: (value.SerializeToString(), *times) for name, value in values.items()}
        before = max(([time or _OLD for time in found[1:]] for found in stored.values()), default=[])
        if told != stored and [time or _OLD for time in times] >= before:
            newer.append(row)
    return newer


@contextmanager
def _transaction(connection: Any) -> Iterator[Any]:
    connection.execute(f"PRAGMA busy_timeout = {_PATIENCE_MS}")
    connection.execute("BEGIN IMMEDIATE")  # from the look at what is stored until the write, nobody else writes
    try:
        yield connection
    finally:
        connection.rollback()  # nothing, after a write
