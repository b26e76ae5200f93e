"""Stores packed histories of users in Feast's online store on Redis, a single server or a Redis Cluster."""

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

NOTES = "mtorl:feed:"
_AT_ONCE = 500

# Lua script that writes fields of a Redis hash, unless one of the compared fields has changed since it was read.
# Its arguments are the number of compared fields, their names and expected texts, the seconds until expiry (0: never),
# and the names and texts of the fields to write.
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
"""A conditional write: the key of a Redis hash, the fields as they were read, and the fields to write if they are still
the same."""


def swap(client: Any, rows: Sequence[Swap], seconds: int) -> list[bool]:
    """Write Redis hashes, except those in which a field has changed since it was read. Returns which were written.

    Args:
        seconds: Time after which the hashes expire. 0 means never.
    """
    with client.pipeline(transaction=False) as pipe:
        for key, read, new in rows:
            compared = [part for field, text in read.items() for part in (field, text or b"")]
            written = [part for pair in new.items() for part in pair]
            pipe.execute_command("EVAL", _SWAP, 1, key, len(read), *compared, seconds, *written)
        return [bool(done) for done in pipe.execute()]


class Store:
    """Stores histories of users in Redis. Also stores the notes of the feed: small texts that expire after a day."""

    def __init__(self, config: RepoConfig, view: FeatureView) -> None:
        self._config = config
        self._field, self._time = _mmh3(f"{view.name}:{PACKED}"), f"_ts:{view.name}"
        self._client = RedisOnlineStore()._get_client(config.online_store)
        self._is_cluster = config.online_store.redis_type == "redis_cluster"

    def read(self, users: Sequence[str]) -> list[bytes | None]:
        """Return the packed history of each user, or None for a user without a history."""
        with self._client.pipeline(transaction=False) as pipe:
            for user in users:
                pipe.hget(_key(self._config, user), self._field)
            values = pipe.execute()
        return [Value.FromString(value).bytes_val if value else None for value in values]

    def swap(self, rows: Sequence[tuple[str, bytes | None, bytes, float]]) -> list[bool]:
        """Store the new histories of users, unless they have changed since they were read. Returns which were stored.

        Args:
            rows: User id, old history, new history, and time of the newest touchpoint in microseconds since 1970.
        """
        swaps: list[Swap] = []
        for user, old, new, newest in rows:
            read = None if old is None else Value(bytes_val=old).SerializeToString()
            at = Timestamp(seconds=int(newest) // 1_000_000, nanos=int(newest) % 1_000_000 * 1000)
            fields = {self._field: Value(bytes_val=new).SerializeToString(), self._time: at.SerializeToString()}
            swaps.append((_key(self._config, user), {self._field: read}, fields))
        return swap(self._client, swaps, self._config.online_store.key_ttl_seconds or 0)

    def note(self, rows: Sequence[tuple[str, str, str, bool]]) -> None:
        """Store notes of the feed, such as the user of a decision.

        Args:
            rows: Name, field and text of each note, and True if the text replaces an earlier one.
        """
        with self._client.pipeline(transaction=False) as pipe:
            for name, field, text, replace in rows:
                (pipe.hset if replace else pipe.hsetnx)(NOTES + name, field, text)
                pipe.expire(NOTES + name, NOTED_SECONDS)
            pipe.execute()

    def noted(self, places: Sequence[tuple[str, str]]) -> list[str | None]:
        """Return the stored note for each pair of a name and a field, or None if there is none."""
        with self._client.pipeline(transaction=False) as pipe:
            for name, field in places:
                pipe.hget(NOTES + name, field)
            return [text and text.decode() for text in pipe.execute()]

    def notes_of(self, names: Sequence[str]) -> list[dict[str, str]]:
        """Return all notes with each name, as a mapping from field to text."""
        with self._client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(NOTES + name)
            return [{f.decode(): text.decode() for f, text in found.items()} for found in pipe.execute()]

    def memory(self) -> tuple[int, int] | None:
        """Return the used memory and the limit in bytes of the fullest node, or None if no limit is set."""
        info = self._client.info("memory", **({"target_nodes": "primaries"} if self._is_cluster else {}))
        nodes = info.values() if self._is_cluster else [info]
        found = [(int(node["used_memory"]), int(node["maxmemory"])) for node in nodes]
        return max((node for node in found if node[1]), key=lambda node: node[0] / node[1], default=None)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def forget(config: RepoConfig, users: Collection[str]) -> int:
    """Delete all features of users, and the feed's notes about them. Returns how many users had features."""
    keys, named = [_key(config, user) for user in sorted(users)], {user.encode() for user in users}
    try:
        with closing(RedisOnlineStore()._get_client(config.online_store)) as client:
            # searches all nodes of a cluster
            for name in client.scan_iter(f"{NOTES}*", count=_AT_ONCE) if users else ():
                if theirs := [field for field, user in client.hgetall(name).items() if user in named]:
                    client.hdel(name, *theirs)
            batches = (keys[start : start + _AT_ONCE] for start in range(0, len(keys), _AT_ONCE))
            return sum(int(client.delete(*batch)) for batch in batches)
    except RedisError as error:
        raise HistoryError(f"{config.online_store.connection_string.split(',')[0]}: {error}") from None


def _key(config: RepoConfig, user: str) -> bytes:
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user)])
    return bytes(_redis_key(config.project, key, config.entity_key_serialization_version))
