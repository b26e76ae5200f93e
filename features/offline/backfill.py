"""Writes the newest feature rows of the offline store to the online store, but does not replace newer rows there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from google.protobuf.timestamp_pb2 import Timestamp

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView, RepoConfig
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    _Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]  # key, features, event time and creation

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Time to wait for another process that is writing, in milliseconds.
_BUSY_TIMEOUT_MS = 30_000


def newest_rows(store: FeatureStore, view: FeatureView, end: datetime) -> pa.Table:
    """Return the newest feature row of each key, without rows that happened or were created after `end`."""
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


def write(store: FeatureStore, view: FeatureView, rows: pa.Table, missing: bool = False) -> int:
    """Write feature rows to the online store, unless it has newer ones. Returns the number of rows that changed.

    Args:
        rows: At most one row per key.
        missing: Write a row only if the store has no row for its key.
    """
    from feast.utils import _convert_arrow_to_proto

    provider: Any = store._get_provider()
    online, config = provider.online_store, store.config
    keys = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    size, written = config.materialization_config.online_write_batch_size or 500, 0
    for start in range(0, rows.num_rows, size):
        # Feast reads only the first chunk of a column.
        batch = _convert_arrow_to_proto(rows.slice(start, size).combine_chunks(), view, keys)
        if config.online_store.type == "redis":
            written += _write_to_redis(online._get_client(config.online_store), config, view, batch, missing)
        else:
            written += _write_to_sqlite(online, config, view, batch, missing)
    return written


def _write_to_sqlite(online: Any, config: RepoConfig, view: FeatureView, rows: Sequence[_Row], missing: bool) -> int:
    connection = online._get_conn(config)
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    # No other process may write between the comparison and the write.
    connection.execute("BEGIN IMMEDIATE")
    try:
        stored = online.online_read(config, view, [key for key, *_ in rows])
        news = [row for row, (at, old) in zip(rows, stored, strict=True) if _is_news(row, at, old, missing)]
        online.online_write_batch(config, view, news, None)  # commits the transaction
    finally:
        connection.rollback()
    return len(news)


def _is_news(row: _Row, at: datetime | None, stored: Mapping[str, Value] | None, missing: bool) -> bool:
    from feast.utils import make_tzaware

    if at is None or stored is None:
        return True
    event = make_tzaware(row[2]).replace(microsecond=0)  # Feast's SQLite store drops microseconds
    return not missing and at <= event and (at, _serialized(stored)) != (event, _serialized(row[1]))


def _serialized(values: Mapping[str, Value]) -> dict[str, bytes]:
    return {name: value.SerializeToString() for name, value in values.items()}


def _write_to_redis(client: Any, config: RepoConfig, view: FeatureView, rows: Sequence[_Row], missing: bool) -> int:
    from feast.infra.online_stores.helpers import _mmh3, _redis_key
    from feast.utils import make_tzaware

    from features.online.redis_store import Swap, swap

    wanted = {}
    for key, values, time, _ in rows:
        event_time = Timestamp()
        event_time.FromDatetime(make_tzaware(time))
        fields = {_mmh3(f"{view.name}:{name}"): text for name, text in _serialized(values).items()}
        place = _redis_key(config.project, key, config.entity_key_serialization_version)
        wanted[place] = fields | {f"_ts:{view.name}": event_time.SerializeToString()}
    written = 0
    while wanted:
        swaps: list[Swap] = []
        for place, stored in zip(wanted, _stored_in_redis(client, wanted), strict=True):
            new, at = wanted[place], f"_ts:{view.name}"
            if stored != new and _moment(stored[at]) <= _moment(new[at]) and not (missing and stored[at]):
                swaps.append((place, stored, new))
        done = swap(client, swaps, config.online_store.key_ttl_seconds or 0)
        written += sum(done)
        wanted = {place: dict(new) for (place, _, new), stored in zip(swaps, done, strict=True) if not stored}
    return written


def _stored_in_redis(client: Any, wanted: Mapping[bytes, Mapping[Any, bytes]]) -> list[dict[Any, bytes | None]]:
    with client.pipeline(transaction=False) as pipe:
        for place, fields in wanted.items():
            pipe.hmget(place, list(fields))
        found = pipe.execute()
    return [dict(zip(fields, values, strict=True)) for fields, values in zip(wanted.values(), found, strict=True)]


def _moment(timestamp: bytes | None) -> tuple[float, int]:
    at = Timestamp.FromString(timestamp or b"")
    return at.seconds if timestamp else -math.inf, at.nanos
