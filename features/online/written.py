"""Records the source of the online store's content, in a key of the store itself: emptying the store removes it.

So a job can check every minute whether the log is newer, or the store was emptied. A check needs neither Feast nor an
engine, whose imports take seconds.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import LogError


class StoreEmptied(Exception):
    """The store lost rows before all were written."""


@dataclass
class Written:
    """Source of the content, and what the next run needs to go on from it."""

    source: str
    definitions: str
    at: float  # when writing began, seconds since 1970
    uploaded: str = ""  # time of the newest upload to the lake; empty without one
    until: int = 0  # of `features.offline.store.Materialized`, and so is `rows`
    rows: int = -1


class Repository:
    """Settings of feature_store.yaml, read without Feast; `registry` is its file, or None if it is elsewhere."""

    def __init__(self, repo: Path) -> None:
        settings = yaml.safe_load(os.path.expandvars((repo / "feature_store.yaml").read_text()))
        registry = settings.get("registry") or {}
        path = registry if isinstance(registry, str) else registry.get("path", "")
        self._online: dict[str, Any] = settings.get("online_store") or {}
        self._key = f"mtorl:written:{settings.get('project')}"
        self.registry = None if "://" in path or not path else repo / path

    def source(self, log: Path, spec: DatasetSpec, decisions: str = "") -> str:
        """A digest of the log, the registry, the data set and the added `decisions`, the digest in their snapshot.

        Raises a `LogError` if there is no log, or no registry.
        """
        if self.registry is not None and not self.registry.exists():
            raise LogError(f"no feature registry yet at {self.registry}: run mtorl-bootstrap (docs/cluster.md)")
        if not log.exists():
            raise LogError(f"no touchpoint log at {log}: your log pipeline writes it (docs/data.md)")
        files = sorted(log.rglob("*")) if log.is_dir() else [log]
        return _digest(_states(files), self.definitions(spec), decisions)

    def definitions(self, spec: DatasetSpec) -> str:
        """A digest of the registry and the data set."""
        return _digest(_states([self.registry] if self.registry else []), spec.model_dump(mode="json"))

    def written(self) -> Written | None:
        """The source of the store's content; None: it is empty, or no Redis."""
        client = self._client()
        text = client.get(self._key) if client else None
        return Written(**json.loads(text)) if text else None

    @contextmanager
    def writing(self, written: Written, before: Written | None = None) -> Iterator[None]:
        """Record what the block has written all of; a `StoreEmptied` if the store lost a part meanwhile.

        If the block fails, the next run goes on from `before`.
        """
        client = self._client()
        if client:
            client.set(self._key, json.dumps(asdict(replace(before or Written("", "", 0.0), source=""))))
        yield
        if client and not client.set(self._key, json.dumps(asdict(written)), xx=True):  # only if it is still there
            raise StoreEmptied(
                "the online store was emptied while it was written; start it again (the CronJob does, in a minute)"
            )

    def _client(self) -> Any:
        """A connection to Redis, one server or a cluster; None: the store is another one."""
        kind = self._online.get("redis_type", "redis")
        if self._online.get("type") != "redis" or kind not in ("redis", "redis_cluster"):
            return None
        from redis import Redis
        from redis.cluster import ClusterNode, RedisCluster

        parts = str(self._online["connection_string"]).split(",")
        places = [part.partition(":") for part in parts if "=" not in part]
        nodes = [(host, int(port or 6379)) for host, _, port in places]
        values: dict[str, Any] = dict(part.split("=", 1) for part in parts if "=" in part)
        for name in values.keys() - {"username", "password"}:
            values[name] = yaml.safe_load(values[name])  # as Feast reads them
        values["decode_responses"] = True
        if kind == "redis_cluster":
            return RedisCluster(startup_nodes=[ClusterNode(*node) for node in nodes], **values)
        return Redis(host=nodes[0][0], port=nodes[0][1], **values)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _states(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]
