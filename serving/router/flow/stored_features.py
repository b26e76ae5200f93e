"""What Feast's online store holds of some keys, without Feast's call for a whole service.

Feast's stores read view by view. On Redis that is a round trip each, though all of a key lies in one hash: here one
HMGET a key fetches the fields of all views, and all keys of a batch share a round trip.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mtorl.log.times import microseconds

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView


class Stored(NamedTuple):
    """A key's row of a view."""

    event_us: int | None  # microseconds since 1970; None: there is no row. SQLite keeps whole seconds.
    values: dict[str, Any]  # a null, or a number that is none, is None


class StoredViews(Protocol):
    """Reads rows of views; blocks."""

    def read(self, ids: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Stored]]:
        """Read all views.

        Args:
            ids: Of each join key, the distinct ids to look up.

        Returns:
            View -> id -> its row.
        """


def open_views(store: FeatureStore, views: Sequence[tuple[FeatureView, str, Sequence[str]]]) -> StoredViews:
    """Open the online store of a repository.

    Args:
        store: The opened repository.
        views: Each with its one join key and the names of its wanted features.
    """
    from feast.infra.online_stores.helpers import get_online_store_from_config

    online = get_online_store_from_config(store.config.online_store)
    kind = _RedisHashes if store.config.online_store.type == "redis" else _EachView
    return kind(store.config, online, views)


class _EachView:
    def __init__(self, config: Any, online: Any, views: Sequence[tuple[FeatureView, str, Sequence[str]]]) -> None:
        self._config, self._online, self._views = config, online, views

    def read(self, ids: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Stored]]:
        found = {}
        for view, key, names in self._views:
            answer = self._online.online_read(self._config, view, _entity_keys(key, ids[key]), list(names))
            found[view.name] = {
                value: Stored(time and microseconds(time), {name: _plain((stored or {}).get(name)) for name in names})
                for value, (time, stored) in zip(ids[key], answer, strict=True)
            }
        return found


class _RedisHashes:
    def __init__(self, config: Any, online: Any, views: Sequence[tuple[FeatureView, str, Sequence[str]]]) -> None:
        self._config, self._online = config, online
        self._fields: dict[str, list[bytes]] = defaultdict(list)  # of the hashes of a join key
        self._places: dict[str, list[tuple[str, int, Sequence[str]]]] = defaultdict(list)  # view, first field, features
        for view, key, names in views:
            self._places[key].append((view.name, len(self._fields[key]), names))
            _, fields = online._generate_hset_keys_for_features(view, list(names))
            self._fields[key] += fields  # the last one is that of the event time

    def read(self, ids: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Stored]]:
        from feast.protos.feast.types.Value_pb2 import Value
        from google.protobuf.timestamp_pb2 import Timestamp

        wanted = [(key, value) for key in self._fields for value in ids[key]]
        keys = [key for join_key in self._fields for key in _entity_keys(join_key, ids[join_key])]
        hashes = self._online._generate_redis_keys_for_entities(self._config, keys)
        commands = [(place, self._fields[key]) for place, (key, _) in zip(hashes, wanted, strict=True)]
        found: dict[str, dict[str, Stored]] = defaultdict(dict)
        for (key, value), fields in zip(wanted, self._online._read_hash_fields(self._config, commands), strict=True):
            for view, first, names in self._places[key]:
                last = first + len(names)
                # Without a row the fields are absent; a feature that is newer than the row is, too.
                values = [_plain(Value.FromString(field)) if field else None for field in fields[first:last]]
                time = Timestamp.FromString(fields[last]) if fields[last] else None
                event_us = None if time is None else time.seconds * 1_000_000 + time.nanos // 1000
                found[view][value] = Stored(event_us, dict(zip(names, values, strict=True)))
        return found


def _entity_keys(key: str, ids: Sequence[str]) -> list[Any]:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    return [EntityKey(join_keys=[key], entity_values=[Value(string_val=value)]) for value in ids]


def _plain(value: Any) -> Any:
    """A stored value as a number, a text, a list of them, or None."""
    kind = value.WhichOneof("val") if value is not None else None
    if kind is None or kind == "null_val":
        return None
    found = getattr(value, kind)
    if kind.endswith("_list_val"):
        return list(found.val)
    return None if found != found else found  # a number that is none
