"""What is known at a decision: a few reads of Feast's online store, in this process, off the event loop.

Feast's own call for a whole service does much that never changes between calls, serves expired values, and tells an
unknown user differently in each store. So the stored rows are read from the same store (`stored_features.py`), and
what Feast leaves open is settled here, from what the registry says of each view and field:

- a value older than the view's TTL at the time of the decision, or not older than the decision at all, is not served
- what is unknown, expired or null has the default that its field declares (the tag "default", as JSON)

A history is as old as its newest touchpoint before the decision. It is cut to the past of the decision where the window
is made (`mtorl.window.window`).
"""

from __future__ import annotations

import json
import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mtorl.window.request_features import request_features
from serving.router.flow.micro_batcher import MicroBatcher, in_threads
from serving.router.flow.requests import DecisionRequest
from serving.router.flow.stored_features import Stored, open_views
from serving.router.ops.settings import SettingsError

if TYPE_CHECKING:
    from feast import FeatureView

_HISTORY, _STATIC, _ON_DEMAND = "user_history", "user_static", "request_time"
_KEYS = {"user_id", "campaign_id"}  # what a request can look up
_READS = 2  # at a time: while one waits for a slow store another may be quick

Requests = Sequence[DecisionRequest]


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
        SettingsError: no such repository, no such service in it, or a view that a decision can't look up.
    """

    def __init__(self, repo: Path, service: str) -> None:
        with _without_torch():
            from feast import FeatureStore
        try:
            store = FeatureStore(repo_path=str(repo))
            projections = store.get_feature_service(service).feature_view_projections
            on_demand = {view.name for view in store.list_on_demand_feature_views()}
            self._on_demand = any(p.name in on_demand for p in projections)
            stored = [p for p in projections if p.name not in on_demand]
            views = [(store.get_feature_view(p.name), [f.name for f in p.features]) for p in stored]
            self._views = [_View.of(view, names) for view, names in views]
            self._stored = open_views(
                store, [(view, made.key, names) for made, (view, names) in zip(self._views, views, strict=True)]
            )
        except Exception as error:  # Feast has one of its own for everything
            raise SettingsError(f"feature_repo: {repo}: {type(error).__name__}: {error}") from error
        unknown = {p.name for p in projections} & on_demand - {_ON_DEMAND}
        if unknown:
            raise SettingsError(f"feature_service: {service}: no router computes {', '.join(sorted(unknown))}")

    def read(self, requests: Sequence[DecisionRequest]) -> list[UserFeatures]:
        """See `FeatureSource`."""
        ids = {key: list(dict.fromkeys(getattr(request, key) for request in requests)) for key in _KEYS}
        stored = self._stored.read(ids)
        found = []
        for request in requests:
            rows = {v.name: v.row(stored[v.name][getattr(request, v.key)], request.at) for v in self._views}
            history, static = rows.pop(_HISTORY, _Row()), rows.pop(_STATIC, _Row())
            aggregates = {name: value for row in rows.values() for name, value in row.values.items()}
            if self._on_demand:
                newest = _newest_before(request.at, history.values.get("hist_timestamp"))
                aggregates |= request_features(float(request.at), newest)
            found.append(UserFeatures(history.values, static.values, history.found, aggregates))
        return found


@dataclass(frozen=True)
class _Row:
    values: dict[str, Any] = field(default_factory=dict)
    found: bool = False


@dataclass(frozen=True)
class _View:
    """A feature view with all that the registry says of it."""

    name: str
    key: str
    ttl: int  # microseconds, 0 for no expiry
    defaults: dict[str, Any]

    @classmethod
    def of(cls, view: FeatureView, features: Sequence[str]) -> _View:
        keys = set(view.join_keys)
        if len(keys) != 1 or not keys <= _KEYS:
            raise ValueError(f"view {view.name} has the keys {sorted(keys)}; a decision has one of {sorted(_KEYS)}")
        if view.name == _HISTORY and "hist_timestamp" not in features:
            raise ValueError(f"view {view.name} without hist_timestamp: nobody could tell its past from its future")
        tags = {f.name: f.tags for f in view.features}
        without = sorted(name for name in features if "default" not in tags[name])
        if without:
            raise ValueError(f"view {view.name}: no default for {', '.join(without)}; give the field a tag 'default'")
        defaults = {name: json.loads(tags[name]["default"]) for name in features}
        return cls(view.name, keys.pop(), (view.ttl or timedelta(0)) // timedelta(microseconds=1), defaults)

    def row(self, stored: Stored, at: int) -> _Row:
        """Features at a time, microseconds since 1970, from what the store holds."""
        values = stored.values
        # A history may have gone on after the decision, and still holds what was before it.
        as_of = _newest_before(at, values["hist_timestamp"]) if self.name == _HISTORY else stored.event_us
        if as_of is None or as_of >= at or (self.ttl and at - as_of > self.ttl):
            return _Row(dict(self.defaults))
        if all(value is None for value in values.values()):
            return _Row(dict(self.defaults))
        return _Row({n: self.defaults[n] if value is None else value for n, value in values.items()}, True)


def _newest_before(at: int, times: Sequence[float] | None) -> float | None:
    """The newest of some times, oldest first, that is before a decision."""
    past = bisect_left(times or (), at)
    return times[past - 1] if times and past else None


class FeatureReader:
    """A feature source for the event loop.

    Args:
        source: Where to read.
    """

    def __init__(self, source: FeatureSource) -> None:
        self._source = source
        self._pool = ThreadPoolExecutor(_READS, thread_name_prefix="features")
        self._reads: MicroBatcher[Requests, list[UserFeatures]] = MicroBatcher(
            in_threads(self._read, self._pool), _READS, weight=len
        )

    async def read(self, requests: Requests) -> list[UserFeatures]:
        """One answer for each request, in order."""
        return await self._reads.submit(requests)

    def _read(self, groups: Sequence[Requests]) -> list[list[UserFeatures] | Exception]:
        try:
            found = iter(self._source.read([request for group in groups for request in group]))
        except (ValueError, TypeError) as error:  # of a request; what the store has to say concerns all of them
            if len(groups) == 1:
                return [error]
            return [answer for group in groups for answer in self._read([group])]
        return [list(islice(found, len(group))) for group in groups]

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
