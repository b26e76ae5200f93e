"""Removes users from the online store: all views of their key, `user_id`, and the feed's notes of their decisions."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from features.engine import name_of
from features.online.history import HistoryError

if TYPE_CHECKING:
    from feast import RepoConfig
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey

_BUSY_SECONDS = 30.0  # how long to wait for writers in other processes
_AT_ONCE = 500  # keys of one command


def forget_online(repo: Path, users: Collection[str]) -> int:
    """Take users out of a repository's online store; returns how many had something there.

    A store of another kind than sqlite and redis, or one that does not answer, is a HistoryError.
    """
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value
    from feast.repo_config import FeastConfigError, load_repo_config

    try:
        config = load_repo_config(repo, repo / "feature_store.yaml")
    except FeastConfigError as error:
        raise HistoryError(f"{repo}: {error}") from None
    keys = [EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user)]) for user in sorted(users)]
    match config.online_store.type:
        case "sqlite":
            return _forget_in_sqlite(repo / config.online_store.path, config, keys)
        case "redis":
            return _forget_in_redis(config, keys)
    raise HistoryError(
        f"{repo}: can't forget anybody in an online store of type {config.online_store.type!r}; use sqlite or redis"
    )


def _forget_in_sqlite(path: Path, config: RepoConfig, keys: Collection[EntityKey]) -> int:
    from feast.infra.key_encoding_utils import serialize_entity_key

    from features.online.sqlite_store import NOTES

    if not path.exists():
        return 0
    version = config.entity_key_serialization_version
    names = [(serialize_entity_key(key, entity_key_serialization_version=version),) for key in keys]
    try:
        with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)) as db:
            db.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten
            tables = [
                name
                for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
                if "entity_key" in {column[1] for column in db.execute(f"PRAGMA table_info({name_of(name)})")}
            ]
            found = set()
            db.execute("BEGIN IMMEDIATE")
            for table in map(name_of, tables):
                for name in names:
                    if db.execute(f"DELETE FROM {table} WHERE entity_key = ?", name).rowcount:
                        found.add(name)
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (NOTES,)).fetchone():
                users = [(key.entity_values[0].string_val,) for key in keys]
                db.executemany(f"DELETE FROM {NOTES} WHERE text = ?", users)
            db.execute("COMMIT")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the write-ahead log holds what the pages were
    except sqlite3.Error as error:
        raise HistoryError(f"{path}: {error}") from None
    return len(found)


def _forget_in_redis(config: RepoConfig, keys: Collection[EntityKey]) -> int:
    from feast.infra.online_stores.helpers import _redis_key
    from feast.infra.online_stores.redis import RedisOnlineStore
    from redis.exceptions import RedisError

    from features.online.redis_store import NOTES

    version = config.entity_key_serialization_version
    names = [_redis_key(config.project, key, version) for key in keys]
    users = {key.entity_values[0].string_val.encode() for key in keys}
    try:
        with closing(RedisOnlineStore()._get_client(config.online_store)) as client:
            for name in client.scan_iter(f"{NOTES}*", count=_AT_ONCE) if users else ():  # of all nodes
                notes = client.hgetall(name)
                if theirs := [field for field, user in notes.items() if user in users]:
                    client.hdel(name, *theirs)
            batches = (names[start : start + _AT_ONCE] for start in range(0, len(names), _AT_ONCE))
            return sum(int(client.delete(*batch)) for batch in batches)
    except RedisError as error:
        raise HistoryError(f"{config.online_store.connection_string.split(',')[0]}: {error}") from None
