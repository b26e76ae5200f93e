"""Reads features from Feast's online store, in this process and in the threads of lanes.

Feast's own call for a whole service returns expired values, and reports an unknown user differently for each store. So
the rows are read directly from the store. On Redis, Feast needs a round trip per view. This module reads the fields of
all views with one HMGET per key, and all keys of a batch share a round trip. Two rules apply:

- A value is not served if, at the time of the decision, it is older than its view's TTL or not older than the decision.
- An unknown, expired or null value is replaced by the default of its field (the tag "default", as JSON).

The age of a history is that of its newest touchpoint before the decision; `mtorl.window.window` drops later ones.

If a repository has no registry, Feast would write an empty one. So the router checks first, and waits until a training
pipeline or `mtorl-bootstrap` has written the registry.
"""

from __future__ import annotations

import json
import sys
import time
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mtorl.log.dataset import DatasetSpec
from mtorl.log.times import microseconds
from mtorl.runtime.sqlite_times import read_times_by
from mtorl.window.packed import served, unpack
from mtorl.window.window import HISTORY, PACKED, STATIC, Instance, instance_from_history
from serving.router.flow.requests import DecisionRequest
from serving.router.messages import NO_REGISTRY, REGISTRY_UNFINISHED
from serving.router.ops.settings import SettingsError

if TYPE_CHECKING:
    from feast import FeatureView

# join keys for which a request has a value
_KEYS = {"user_id", "campaign_id"}
# An invalid registry file that changed less than this many seconds ago may be one that Feast is still writing.
_WRITING_SECONDS = 10.0

Requests = Sequence[DecisionRequest]


class RegistryAwaited(RuntimeError):
    """Raised while the feature registry is missing or incomplete."""


@dataclass(frozen=True)
class UserFeatures:
    """The features read for one request, or their defaults."""

    history: dict[str, Any]  # lists hist_*, oldest first; some may be later than the decision
    static: dict[str, Any]
    has_history: bool
    aggregates: dict[str, Any] = field(default_factory=dict)  # all other features of the service


class FeatureSource(Protocol):
    """A store of features. Calls block."""

    def read(self, requests: Requests) -> list[UserFeatures]:
        """Return the features for each request, in order."""


class ModelInput(NamedTuple):
    """The features for one opportunity, in the form that models read."""

    window: Instance
    has_history: bool
    aggregates: dict[str, Any]  # the service's other features


class FeatureReader:
    """Builds model inputs from the features of a source. Calls block."""

    def __init__(self, source: FeatureSource, spec: DatasetSpec) -> None:
        self._source = source
        self._spec = spec

    def read(self, requests: Requests) -> list[ModelInput | Exception]:
        """Return a model input or an exception for each request, in order."""
        try:
            users = self._source.read(requests)
        except (ValueError, TypeError) as error:  # caused by one request, so read each alone
            if len(requests) == 1:
                return [error]
            return [answer for request in requests for answer in self.read([request])]
        return [self._model_input(request, user) for request, user in zip(requests, users, strict=True)]

    def _model_input(self, request: DecisionRequest, user: UserFeatures) -> ModelInput | Exception:
        try:
            given = request.context, user.static, self._spec, request.at
            window = instance_from_history(user.history, *given, user.aggregates)
        except Exception as error:  # such as lists of different lengths
            return error
        return ModelInput(window, user.has_history, user.aggregates)


class FeastSource:
    """Reads the features of a Feast feature service.

    Raises RegistryAwaited if Feast's registry is missing or incomplete, and SettingsError for any other fault.
    """

    def __init__(self, repo: Path, service: str, spec: DatasetSpec | None = None) -> None:
        with _without_torch():
            from feast import FeatureStore
        registry: Path | None = None
        try:
            registry = registry_file(repo)
            if registry is not None and not registry.exists():
                raise RegistryAwaited(NO_REGISTRY(file=str(registry)))
            store = FeatureStore(repo_path=str(repo))
            if store.config.online_store.type == "sqlite":
                from feast.infra.online_stores.sqlite import convert_timestamp

                read_times_by(convert_timestamp)
            projections = store.get_feature_service(service).feature_view_projections
            self._views = [_View(store.get_feature_view(p.name), [f.name for f in p.features]) for p in projections]
            opened = _RedisHashes if store.config.online_store.type == "redis" else _EachView
            self._stored: _RedisHashes | _EachView = opened(store.config, self._views)
        except RegistryAwaited:
            raise
        except Exception as error:  # Feast raises many kinds
            if registry and registry.exists() and time.time() - registry.stat().st_mtime < _WRITING_SECONDS:
                raise RegistryAwaited(REGISTRY_UNFINISHED(file=str(registry))) from error
            raise SettingsError(f"feature_repo: {repo}: {type(error).__name__}: {error}") from error
        wanted = {field.name for chosen in spec.features for field in chosen.fields} if spec else set()
        if missing := wanted - {name for view in self._views for name in view.names}:
            names = ", ".join(sorted(missing))
            raise SettingsError(f"feature_service: {service} lacks {names}: build it with this data set description")

    def read(self, requests: Requests) -> list[UserFeatures]:
        """Read all views of the service."""
        ids = {key: list(dict.fromkeys(getattr(request, key) for request in requests)) for key in _KEYS}
        stored = self._stored.read(ids)
        users = []
        for request in requests:
            rows = {v.name: v.row(stored[v.name][getattr(request, v.key)], request.at) for v in self._views}
            history, has_history = rows.pop(HISTORY, ({}, False))
            static, _ = rows.pop(STATIC, ({}, False))
            aggregates = {name: value for values, _ in rows.values() for name, value in values.items()}
            users.append(UserFeatures(history, static, has_history, aggregates))
        return users


def registry_file(repo: Path) -> Path | None:
    """Return a Feast repository's registry file, if the registry is a file."""
    from feast.repo_config import load_repo_config

    registry = load_repo_config(repo, repo / "feature_store.yaml").registry
    if registry.registry_type != "file" or "://" in registry.path:
        return None
    return repo / registry.path


Stored = tuple[int | None, dict[str, Any]]
"""A row of a feature view for one key. The first value is the event time in microseconds since 1970, or None if there
is no row; SQLite stores it only to the second. The second value has the features by name; None stands for null and NaN.
"""


class _View:
    """A view of the feature service, and its features to read."""

    def __init__(self, view: FeatureView, names: Sequence[str]) -> None:
        keys = set(view.join_keys)
        if len(keys) != 1 or not keys <= _KEYS:
            raise ValueError(f"view {view.name} has the keys {sorted(keys)}; a decision has one of {sorted(_KEYS)}")
        if view.name == HISTORY and PACKED not in names:
            raise ValueError(f"view {view.name} without {PACKED}")
        tags = {f.name: f.tags for f in view.features}
        if without := sorted(name for name in names if "default" not in tags[name]):
            raise ValueError(f"view {view.name}: no default for {', '.join(without)}; give the field a tag 'default'")
        self.feast, self.name, self.key, self.names = view, view.name, keys.pop(), list(names)
        self._ttl = (view.ttl or timedelta(0)) // timedelta(microseconds=1)  # 0: no expiry
        self._defaults = {name: json.loads(tags[name]["default"]) for name in names}

    def row(self, stored: Stored, at: int) -> tuple[dict[str, Any], bool]:
        """Return the features as of a time (microseconds since 1970), and whether they are stored or defaults."""
        as_of: float | None
        (as_of, values), defaults = stored, self._defaults
        if self.name == HISTORY:
            values, defaults = served(unpack(values[PACKED])) if values[PACKED] else {}, {}
            # A history's age counts from the last touchpoint before the decision.
            times = values.get("hist_timestamp") or ()
            as_of = times[before - 1] if (before := bisect_left(times, at)) else None
        served_now = as_of is not None and as_of < at and not (self._ttl and at - as_of > self._ttl)
        if not served_now or all(value is None for value in values.values()):
            return dict(defaults), False
        return {name: defaults[name] if value is None else value for name, value in values.items()}, True


@contextmanager
def _without_torch() -> Iterator[None]:
    """Hide torch from Feast, whose import of torch costs 200 MB and several seconds."""
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules["torch"]


def _online_store(config: Any) -> Any:
    from feast.infra.online_stores.helpers import get_online_store_from_config

    return get_online_store_from_config(config.online_store)


class _EachView:
    """Reads any online store of Feast, with one call for each feature view.

    Threads do not share a store, because two threads on one SQLite connection may get each other's rows.
    """

    def __init__(self, config: Any, views: Sequence[_View]) -> None:
        self._config, self._views = config, views
        self._free: deque[Any] = deque()  # store objects that no thread uses now

    def read(self, ids: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Stored]]:
        """Read the rows for ids of each join key; returns view -> id -> row."""
        try:
            online = self._free.pop()
        except IndexError:
            online = _online_store(self._config)
        rows = {}
        for view in self._views:
            answer = online.online_read(self._config, view.feast, _entity_keys(view.key, ids[view.key]), view.names[:])
            rows[view.name] = {
                value: (at and microseconds(at), {name: _plain((stored or {}).get(name)) for name in view.names})
                for value, (at, stored) in zip(ids[view.key], answer, strict=True)
            }
        self._free.append(online)  # not after an error, which may have broken the connection
        return rows


class _RedisHashes:
    """Reads Feast's Redis store, which has one hash per user or campaign."""

    def __init__(self, config: Any, views: Sequence[_View]) -> None:
        self._config, self._online = config, _online_store(config)
        self._fields: dict[str, list[bytes]] = defaultdict(list)  # join key -> names of the fields to read
        self._places: dict[str, list[tuple[_View, int]]] = defaultdict(
            list
        )  # join key -> (view, index of its first field)
        for view in views:
            self._places[view.key].append((view, len(self._fields[view.key])))
            _, fields = self._online._generate_hset_keys_for_features(view.feast, view.names[:])
            self._fields[view.key] += fields  # the last field is the event time

    def read(self, ids: Mapping[str, Sequence[str]]) -> dict[str, dict[str, Stored]]:
        """Read the rows for ids of each join key; returns view -> id -> row."""
        from feast.protos.feast.types.Value_pb2 import Value
        from google.protobuf.timestamp_pb2 import Timestamp

        wanted = [(key, value) for key in self._fields for value in ids[key]]
        keys = [key for join_key in self._fields for key in _entity_keys(join_key, ids[join_key])]
        hashes = self._online._generate_redis_keys_for_entities(self._config, keys)
        commands = [(place, self._fields[key]) for place, (key, _) in zip(hashes, wanted, strict=True)]
        rows: dict[str, dict[str, Stored]] = defaultdict(dict)
        for (key, value), fields in zip(wanted, self._online._read_hash_fields(self._config, commands), strict=True):
            for view, first in self._places[key]:
                *found, written = fields[first : first + len(view.names) + 1]
                # The feature may be newer than the row.
                values = [_plain(Value.FromString(field)) if field else None for field in found]
                at = Timestamp.FromString(written).ToMicroseconds() if written else None
                rows[view.name][value] = at, dict(zip(view.names, values, strict=True))
        return rows


def _entity_keys(key: str, ids: Sequence[str]) -> list[Any]:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    return [EntityKey(join_keys=[key], entity_values=[Value(string_val=value)]) for value in ids]


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("val") if value is not None else None
    if kind is None or kind == "null_val":
        return None
    content = getattr(value, kind)
    if kind.endswith("_list_val"):
        return list(content.val)
    return None if content != content else content  # NaN
