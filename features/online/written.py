"""Records from which log the online store was last written. The record is a key in the store itself."""

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
    """Raised if the online store lost its content while it was being written."""


@dataclass
class Written:
    """A record of the last write of the online store.

    Attributes:
        source: Digest of the log and the definitions (`Repository.source`).
        at: Time at which writing began, in seconds since 1970.
        uploaded: Upload time of the newest file that was read from the lake. Empty without a lake.
    """

    source: str
    definitions: str
    at: float
    uploaded: str = ""
    until: int = 0
    rows: int = -1


class Repository:
    """The settings of a repository's feature_store.yaml, read without importing Feast, which takes seconds."""

    def __init__(self, repo: Path) -> None:
        settings = yaml.safe_load(os.path.expandvars((repo / "feature_store.yaml").read_text()))
        registry = settings.get("registry") or {}
        path = registry if isinstance(registry, str) else registry.get("path", "")
        self._online: dict[str, Any] = settings.get("online_store") or {}
        self._key = f"mtorl:written:{settings.get('project')}"
        self.registry = None if "://" in path or not path else repo / path

    def source(self, log: Path, spec: DatasetSpec, decisions: str = "") -> str:
        """Return a digest of everything that the online store is computed from.

        Raises:
            LogError: The log or the registry does not exist yet.
        """
        if self.registry is not None and not self.registry.exists():
            raise LogError(f"no feature registry yet at {self.registry}: run mtorl-bootstrap (docs/cluster.md)")
        if not log.exists():
            raise LogError(f"no touchpoint log at {log}: your log pipeline writes it (docs/data.md)")
        files = sorted(log.rglob("*")) if log.is_dir() else [log]
        return _digest(_states(files), self.definitions(spec), decisions)

    def definitions(self, spec: DatasetSpec) -> str:
        """Return a digest of the registry and the data set description."""
        return _digest(_states([self.registry] if self.registry else []), spec.model_dump(mode="json"))

    def written(self) -> Written | None:
        """Return the record of the last write. None if the store is empty, or is not on Redis."""
        client = self._client()
        text = client.get(self._key) if client else None
        return Written(**json.loads(text)) if text else None

    @contextmanager
    def writing(self, written: Written, before: Written | None = None) -> Iterator[None]:
        """Record a write of the online store in the store itself, once the `with` block has succeeded.

        During the block and if the block fails, the record is `before` without a source, so that the store counts as
        out of date.

        Raises:
            StoreEmptied: The record disappeared during the block, so the store has lost other content too.
        """
        client = self._client()
        if client:
            client.set(self._key, json.dumps(asdict(replace(before or Written("", "", 0.0), source=""))))
        yield
        if client and not client.set(self._key, json.dumps(asdict(written)), xx=True):  # only if the key still exists
            raise StoreEmptied(
                "the online store was emptied while it was written. Run again (the CronJob does, within a minute)"
            )

    def _client(self) -> Any:
        """Return a client for the Redis server or cluster of the online store. None if the store is not on Redis."""
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
            values[name] = yaml.safe_load(values[name])  # parsed as in Feast
        values["decode_responses"] = True
        if kind == "redis_cluster":
            return RedisCluster(startup_nodes=[ClusterNode(*node) for node in nodes], **values)
        return Redis(host=nodes[0][0], port=nodes[0][1], **values)


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _states(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]
