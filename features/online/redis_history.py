"""Histories in Feast's Redis hashes: one script and one round trip for each operation.

Feast keeps a user in one hash: a field for each feature (the murmur hash of view and name), which holds a serialised
`Value`, and a field for each view with its event time. The scripts work on those bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from feast import FeatureView, RepoConfig
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import make_tzaware
from google.protobuf.timestamp_pb2 import Timestamp
from redis import Redis
from redis.commands.core import Script
from redis.exceptions import ResponseError

from features.online.history import History, HistoryError, UserHistory
from mtorl.log.dataset import DatasetSpec

_LUA = Path(__file__).parent
_number = struct.Struct("<d").pack

Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
"""Key, features, event time and time of creation."""


def write_newest(client: Redis, config: RepoConfig, view: FeatureView, rows: Sequence[Row]) -> None:
    """Write rows of a view, each unless a newer one is stored, in one round trip.

    Feast itself reads the stored times first and writes later: rows written in between would be lost.
    """
    script = client.register_script((_LUA / "wire.lua").read_text() + (_LUA / "newest.lua").read_text())
    expire = config.online_store.key_ttl_seconds or 0
    with client.pipeline(transaction=False) as pipe:
        for key, values, time, _ in rows:
            event_time = Timestamp()
            event_time.FromDatetime(make_tzaware(time))
            arguments = [expire, f"_ts:{view.name}", event_time.SerializeToString()]
            for name, value in values.items():
                arguments += [_mmh3(f"{view.name}:{name}"), value.SerializeToString()]
            script([_redis_key(config.project, key, config.entity_key_serialization_version)], arguments, client=pipe)
        pipe.execute()


class RedisHistory(History):
    """Histories in a Redis server."""

    def __init__(self, spec: DatasetSpec, config: RepoConfig, view: FeatureView) -> None:
        super().__init__(spec)
        self._project = config.project
        self._version = config.entity_key_serialization_version
        self._fields = {name: _mmh3(f"{view.name}:{name}") for name in self._columns}
        self._constants = (
            spec.window,
            config.online_store.key_ttl_seconds or 0,
            f"_ts:{view.name}",
        )
        self._layout = (
            b"".join(self._fields.values()),
            "".join(self._kind(name) for name in self._columns),
        )
        self._client = RedisOnlineStore()._get_client(config.online_store)
        wire = (_LUA / "wire.lua").read_text()
        self._append_script = self._client.register_script(wire + (_LUA / "append.lua").read_text())
        self._patch_script = self._client.register_script(wire + (_LUA / "patch.lua").read_text())
        self._merge_script = self._client.register_script(wire + (_LUA / "merge.lua").read_text())

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _kind(self, column: str) -> str:
        if column in self._unknown:
            return "t" if math.isnan(self._unknown[column]) else "o"
        return "d" if self._columns[column] else "s"

    def _insert(self, user_id: str, values: dict[str, float | str]) -> bool:
        event_time = _timestamp(values["hist_timestamp"])
        packed = (_number(values[name]) if number else values[name] for name, number in self._columns.items())
        return self._run(self._append_script, user_id, [*self._constants, event_time, *self._layout, *packed])

    def _overwrite(self, user_id: str, at: float, values: dict[str, float]) -> bool:
        fields = [self._fields[name] for name in ("hist_timestamp", *values)]
        return self._run(self._patch_script, user_id, [b"".join(fields), _number(at), *map(_number, values.values())])

    def _merge(self, logged: dict[str, UserHistory]) -> int:
        with self._client.pipeline(transaction=False) as pipe:
            for user, history in logged.items():
                arguments = [*self._constants, _timestamp(history["hist_timestamp"][-1]), *self._layout]
                for name, number in self._columns.items():
                    value = Value()
                    (value.double_list_val if number else value.string_list_val).val.extend(history[name])
                    arguments.append(value.SerializeToString())
                self._merge_script([self._key(user)], arguments, client=pipe)
            answers = pipe.execute(raise_on_error=False)
        for user, answer in zip(logged, answers, strict=True):
            if isinstance(answer, Exception):
                raise _broken(user, answer) from None
        return sum(answers)

    def _run(self, script: Script, user_id: str, arguments: list[Any]) -> bool:
        try:
            return bool(script([self._key(user_id)], arguments))
        except ResponseError as error:
            raise _broken(user_id, error) from None

    def _key(self, user_id: str) -> bytes:
        key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user_id)])
        return _redis_key(self._project, key, self._version)


def _timestamp(micros: Any) -> bytes:
    at = int(micros)
    return Timestamp(seconds=at // 1_000_000, nanos=at % 1_000_000 * 1000).SerializeToString()


def _broken(user_id: str, error: Exception) -> Exception:
    if "different lengths" in str(error):
        return HistoryError(f"the history of {user_id!r} has {error}; materialise it again")
    return error
