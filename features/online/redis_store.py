"""Packed histories in Feast's Redis hashes, on one server or on a Redis Cluster.

Feast stores a key in one hash: one field per feature (murmur hash of view and name) with a serialized `Value`, and one
field per view with its event time. A script compares and writes (`swap`); it touches one key, as a cluster requires.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from typing import Any

from feast import FeatureView, RepoConfig
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from redis.exceptions import RedisError

from features.online.history import NOTED_SECONDS, HistoryError
from mtorl.window.window import PACKED

NOTES = "mtorl:feed:"  # prefix of the keys of the feed's notes
_AT_ONCE = 500  # keys in one command

# ARGV: number of fields to compare; each of these fields with the text that was read; seconds until the hash expires,
# or 0; fields and texts to write. On a cluster, redis-py can pipeline EVAL, but not scripts. Redis compiles EVAL once.
_SWAP = """
local at = 2 * ARGV[1] + 2
for i = 2, at - 1, 2 do
  if (redis.call('HGET', KEYS[1], ARGV[i]) or '') ~= ARGV[i + 1] then return 0 end
end
redis.call('HSET', KEYS[1], unpack(ARGV, at + 1))
if ARGV[at] ~= '0' then redis.call('EXPIRE', KEYS[1], ARGV[at]) end
return 1
"""

Swap = tuple[bytes, Mapping[Any, bytes | None], Mapping[Any, bytes]]
"""A key, the fields as they were read, and the fields to write."""


def swap(client: Any, rows: Sequence[Swap], seconds: int) -> list[bool]:
    """Write hashes in one round trip, each unless a compared field has changed; returns which hashes were written."""
    with client.pipeline(transaction=False) as pipe:
        for key, read, new in rows:
            compared = [part for field, text in read.items() for part in (field, text or b"")]
            written = [part for pair in new.items() for part in pair]
            pipe.execute_command("EVAL", _SWAP, 1, key, len(read), *compared, seconds, *written)
        return [bool(done) for done in pipe.execute()]


class Store:
    """Packed histories and notes in Redis; threads may share it."""

    def __init__(self, config: RepoConfig, view: FeatureView) -> None:
        self._config = config
        self._field, self._time = _mmh3(f"{view.name}:{PACKED}"), f"_ts:{view.name}"
        self._client = RedisOnlineStore()._get_client(config.online_store)
        self._is_cluster = config.online_store.redis_type == "redis_cluster"

    def read(self, users: Sequence[str]) -> list[bytes | None]:
        """Return the stored value of each user."""
        with self._client.pipeline(transaction=False) as pipe:
            for user in users:
                pipe.hget(_key(self._config, user), self._field)
            values = pipe.execute()
        return [Value.FromString(value).bytes_val if value else None for value in values]

    def swap(self, rows: Sequence[tuple[str, bytes | None, bytes, float]]) -> list[bool]:
        """Store values, each unless it has changed since it was read; returns which values were stored."""
        swaps: list[Swap] = []
        for user, old, new, newest in rows:
            read = None if old is None else Value(bytes_val=old).SerializeToString()
            at = Timestamp(seconds=int(newest) // 1_000_000, nanos=int(newest) % 1_000_000 * 1000)
            fields = {self._field: Value(bytes_val=new).SerializeToString(), self._time: at.SerializeToString()}
            swaps.append((_key(self._config, user), {self._field: read}, fields))
        return swap(self._client, swaps, self._config.online_store.key_ttl_seconds or 0)

    def note(self, rows: Sequence[tuple[str, str, str, bool]]) -> None:
        """Store notes (name, field, text, whether to replace an earlier text) for a day."""
        with self._client.pipeline(transaction=False) as pipe:
            for name, field, text, replace in rows:
                (pipe.hset if replace else pipe.hsetnx)(NOTES + name, field, text)
                pipe.expire(NOTES + name, NOTED_SECONDS)
            pipe.execute()

    def noted(self, places: Sequence[tuple[str, str]]) -> list[str | None]:
        """Return the text for each name and field."""
        with self._client.pipeline(transaction=False) as pipe:
            for name, field in places:
                pipe.hget(NOTES + name, field)
            return [text and text.decode() for text in pipe.execute()]

    def notes_of(self, names: Sequence[str]) -> list[dict[str, str]]:
        """Return the fields and texts of each name."""
        with self._client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(NOTES + name)
            return [{f.decode(): text.decode() for f, text in found.items()} for found in pipe.execute()]

    def memory(self) -> tuple[int, int] | None:
        """Return used bytes and the limit, for the fullest node of a cluster; None if there is no limit."""
        info = self._client.info("memory", **({"target_nodes": "primaries"} if self._is_cluster else {}))
        nodes = info.values() if self._is_cluster else [info]
        found = [(int(node["used_memory"]), int(node["maxmemory"])) for node in nodes]
        return max((node for node in found if node[1]), key=lambda node: node[0] / node[1], default=None)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def forget(config: RepoConfig, users: Collection[str]) -> int:
    """Remove all views of users, and the feed's notes of their decisions; returns how many users had any."""
    keys, named = [_key(config, user) for user in sorted(users)], {user.encode() for user in users}
    try:
        with closing(RedisOnlineStore()._get_client(config.online_store)) as client:
            for name in client.scan_iter(f"{NOTES}*", count=_AT_ONCE) if users else ():  # on all nodes
                if theirs := [field for field, user in client.hgetall(name).items() if user in named]:
                    client.hdel(name, *theirs)
            batches = (keys[start : start + _AT_ONCE] for start in range(0, len(keys), _AT_ONCE))
            return sum(int(client.delete(*batch)) for batch in batches)
    except RedisError as error:
        raise HistoryError(f"{config.online_store.connection_string.split(',')[0]}: {error}") from None


def _key(config: RepoConfig, user: str) -> bytes:
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user)])
    return bytes(_redis_key(config.project, key, config.entity_key_serialization_version))
