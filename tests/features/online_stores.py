from pathlib import Path

import yaml
from feast import FeatureStore

from features.offline.store import define
from mtorl.log.dataset import DatasetSpec

STORES = ("sqlite", "redis")


def write_settings(repo: Path, kind: str, port: int = 0, **online: object) -> None:
    where = {"sqlite": {"path": "online.db"}, "redis": {"connection_string": f"127.0.0.1:{port}"}}.get(kind, {})
    settings = {
        "project": "mtorl",
        "provider": "local",
        "registry": "registry.db",
        "offline_store": {"type": "duckdb"},
        "online_store": {"type": kind, **where, **online},
        "entity_key_serialization_version": 3,
    }
    repo.mkdir(parents=True, exist_ok=True)
    (repo / "feature_store.yaml").write_text(yaml.safe_dump(settings))


def apply_history(repo: Path, spec: DatasetSpec) -> FeatureStore:
    define(repo, spec)
    return FeatureStore(repo_path=str(repo))
