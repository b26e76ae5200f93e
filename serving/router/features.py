"""What is known at a decision: a few reads of Feast's online store, in this process, off the event loop.

Feast's own call for a whole service does much that never changes between calls, serves expired values, and tells an
unknown user differently in each store. So each view is read by itself, from the same store, and what Feast leaves open
is settled here, from what the registry says of each view and field:

- a value older than the view's TTL at the time of the decision, or not older than the decision at all, is not served
- what is unknown, expired or null has the default that its field declares (the tag "default", as JSON)

A history holds its own times: it is cut to the past of the decision where the window is made (`mtorl.windows`).
"""

from __future__ import annotations

import asyncio
import json
import sys
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mtorl.request_features import request_features
from serving.router.config import ConfigError
from serving.router.requests import DecisionRequest, microseconds

if TYPE_CHECKING:
    from feast import FeatureView

_HISTORY, _STATIC, _ON_DEMAND = "user_history", "user_static", "request_time"
_KEYS = {"user_id", "campaign_id"}  # what a request can look up


@dataclass(frozen=True)
class UserFeatures:
    """What is known of one opportunity; declared defaults where nothing is."""

    history: dict[str, Any]  # the hist_* lists, oldest first; the newest ones may lie after the decision
    static: dict[str, Any]
    found: bool  # whether the user has a history
    aggregates: dict[str, Any] = field(default_factory=dict)  # all other features of the service


class FeatureSource(Protocol):
    """Reads features; blocks."""

    def read(self, requests: Sequence[DecisionRequest]) -> list[UserFeatures]:
        """One answer for each request, in order."""


class FeastSource:
    """A Feast repository.

    Args:
        repo: Folder with feature_store.yaml.
        service: Name of the feature service, which is looked up once.

    Raises:
        ConfigError: no such repository, no such service in it, or a view that a decision can't look up.
    """

    def __init__(self, repo: Path, service: str) -> None:
        with _without_torch():
            from feast import FeatureStore
        try:
            from feast.infra.online_stores.helpers import get_online_store_from_config

            store = FeatureStore(repo_path=str(repo))
            self._config = store.config
            self._online = get_online_store_from_config(store.config.online_store)
            projections = store.get_feature_service(service).feature_view_projections
            on_demand = {view.name for view in store.list_on_demand_feature_views()}
            self._on_demand = any(p.name in on_demand for p in projections)
            self._views = [
                _View.of(store.get_feature_view(p.name), [f.name for f in p.features])
                for p in projections
                if p.name not in on_demand
            ]
        except Exception as error:  # Feast has one of its own for everything
            raise ConfigError(f"feature_repo: {repo}: {type(error).__name__}: {error}") from error
        unknown = {p.name for p in projections} & on_demand - {_ON_DEMAND}
        if unknown:
            raise ConfigError(f"feature_service: {service}: no router computes {', '.join(sorted(unknown))}")

    def read(self, requests: Sequence[DecisionRequest]) -> list[UserFeatures]:
        """See `FeatureSource`."""
        views = {view.name: self._read(view, requests) for view in self._views}
        found = []
        for i, request in enumerate(requests):
            values = {name: rows[i] for name, rows in views.items()}
            history, static = values.pop(_HISTORY, _Row()), values.pop(_STATIC, _Row())
            aggregates = {name: value for row in values.values() for name, value in row.values.items()}
            if self._on_demand:
                times = history.values.get("hist_timestamp") or []
                past = bisect_left(times, request.at)
                aggregates |= request_features(float(request.at), times[past - 1] if past else None)
            found.append(UserFeatures(history.values, static.values, history.found, aggregates))
        return found

    def _read(self, view: _View, requests: Sequence[DecisionRequest]) -> list[_Row]:
        """A view's features for each request."""
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        ids = [getattr(request, view.key) for request in requests]
        once = list(dict.fromkeys(ids))
        keys = [EntityKey(join_keys=[view.key], entity_values=[Value(string_val=value)]) for value in once]
        # Redis appends a field of its own to the names that it is given.
        answer = self._online.online_read(self._config, view.view, keys, list(view.defaults))
        stored = dict(zip(once, answer, strict=True))
        rows = []
        for value, request in zip(ids, requests, strict=True):
            event_time, values = stored[value]
            rows.append(view.row(event_time, values or {}, request.at))
        return rows


@dataclass(frozen=True)
class _Row:
    values: dict[str, Any] = field(default_factory=dict)
    found: bool = False


@dataclass(frozen=True)
class _View:
    """A feature view with all that the registry says of it."""

    view: FeatureView
    name: str
    key: str
    ttl: int  # microseconds, 0 for no expiry
    defaults: dict[str, Any]

    @classmethod
    def of(cls, view: FeatureView, features: Sequence[str]) -> _View:
        keys = set(view.join_keys)
        if len(keys) != 1 or not keys <= _KEYS:
            raise ValueError(f"view {view.name} has the keys {sorted(keys)}; a decision has one of {sorted(_KEYS)}")
        tags = {f.name: f.tags for f in view.features}
        without = sorted(name for name in features if "default" not in tags[name])
        if without:
            raise ValueError(f"view {view.name}: no default for {', '.join(without)}; give the field a tag 'default'")
        defaults = {name: json.loads(tags[name]["default"]) for name in features}
        return cls(view, view.name, keys.pop(), (view.ttl or timedelta(0)) // timedelta(microseconds=1), defaults)

    def row(self, event_time: datetime | None, stored: Mapping[str, Any], at: int) -> _Row:
        """Features at a time, microseconds since 1970, from what the store holds."""
        values = {name: _plain(stored.get(name)) for name in self.defaults}
        if event_time is None or all(value is None for value in values.values()):
            return _Row(dict(self.defaults))
        # A history knows its newest time itself; SQLite keeps whole seconds of the event time.
        times = values.get("hist_timestamp")
        age = at - (round(times[-1]) if times else microseconds(event_time))
        # A history that has gone on after the decision still holds what was before it.
        if (self.ttl and age > self.ttl) or (age <= 0 and self.name != _HISTORY):
            return _Row(dict(self.defaults))
        return _Row({n: self.defaults[n] if value is None else value for n, value in values.items()}, True)


def _plain(value: Any) -> Any:
    """A stored value as a number, a text, a list of them, or None."""
    kind = value.WhichOneof("val") if value is not None else None
    if kind is None or kind == "null_val":
        return None
    found = getattr(value, kind)
    if kind.endswith("_list_val"):
        return list(found.val)
    return None if found != found else found  # a number that is none


class FeatureReader:
    """A feature source for the event loop.

    Args:
        source: Where to read.
        threads: Reads at a time.
    """

    def __init__(self, source: FeatureSource, threads: int = 4) -> None:
        self._source = source
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="features")

    async def read(self, requests: Sequence[DecisionRequest]) -> list[UserFeatures]:
        """One answer for each request, in order."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._source.read, requests)

    def close(self) -> None:
        """Stop without waiting for a store that hangs."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _without_torch() -> Iterator[None]:
    """Feast imports torch, where it is installed, for a method that nobody calls here: seconds, and 200 MB."""
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None  # type: ignore[assignment]  # Python's own way to say: not there
    try:
        yield
    finally:
        if absent:
            del sys.modules["torch"]
