"""A Feast repository on each online store that we write to."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import yaml
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Bytes

from mtorl.log.dataset import DatasetSpec
from mtorl.window.window import HISTORY, PACKED, history_types

STORES = ("sqlite", "redis")


def write_settings(repo: Path, kind: str, port: int = 0, **online: object) -> None:
    """Write feature_store.yaml for an online store."""
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
    """Define the view of the histories, and nothing else, in a repository that has its settings."""
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    view = FeatureView(
        name=HISTORY,
        entities=[user],
        schema=[Field(name=PACKED, dtype=Bytes, tags={"columns": json.dumps(history_types(spec))})],
        source=FileSource(
            name=HISTORY,
            path=str(repo / "history.parquet"),
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
        ttl=timedelta(days=30),
    )
    store = FeatureStore(repo_path=str(repo))
    store.apply([user, view])
    return store
