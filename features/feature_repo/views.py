"""The one definition of entity, sources, feature views and feature service, made from a data set description.

`definitions.py` applies it from the command line, `features.store.create` for a run of its own.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, FeastType, Float64, Int64, String

from features.sources import HISTORY, STATIC, history_types
from features.store import SERVICE
from mtorl.dataset import DatasetSpec

TAGS = {"owner": "ads-platform"}
_TYPES: dict[str, FeastType] = {"VARCHAR": String, "BIGINT": Int64, "DOUBLE": Float64}


class Definitions(NamedTuple):
    """What one feature repository holds."""

    user: Entity
    user_history: FeatureView
    user_static: FeatureView | None  # None: the data set has no static user columns
    ad_decision: FeatureService

    @property
    def views(self) -> list[FeatureView]:
        """The feature views that exist."""
        return [view for view in (self.user_history, self.user_static) if view is not None]


def build(spec: DatasetSpec, data: Path) -> Definitions:
    """Define the features of a data set.

    Args:
        spec: Description of the data set; its columns become the features.
        data: Folder of the Parquet files that `features.sources.build_sources` writes.
    """
    user = Entity(
        name="user",
        join_keys=["user_id"],
        value_type=ValueType.STRING,
        description="Person who meets the ads; the unit of every experiment",
        tags=TAGS,
    )

    def view(name: str, description: str, schema: list[Field]) -> FeatureView:
        return FeatureView(
            name=name,
            description=description,
            entities=[user],
            schema=schema,
            source=FileSource(
                name=name,
                path=str((data / f"{name}.parquet").resolve()),  # Feast's DuckDB store reads from the process's folder
                timestamp_field="event_timestamp",
                created_timestamp_column="created_timestamp",
            ),
            # No expiry: Feast drops expired values from training data, but still serves them online. Equal is better.
            ttl=timedelta(0),
            tags=TAGS,
            owner=TAGS["owner"],
        )

    history = [Field(name=name, dtype=Array(_TYPES[kind])) for name, kind in history_types(spec).items()]
    static = [Field(name=c.name, dtype=Float64 if c.kind == "numeric" else String) for c in spec.static]
    user_history = view(HISTORY, f"Last {spec.window} touchpoints, oldest first", history)
    user_static = view(STATIC, "What does not change about a user", static) if static else None
    service = FeatureService(
        name=SERVICE,
        features=[v for v in (user_history, user_static) if v is not None],
        description=f"Features of one ad decision, data set {spec.name}",
        tags=TAGS,
    )
    return Definitions(user, user_history, user_static, service)
