"""Creates Feast's entities, sources, feature views and feature service from a data set description."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Bytes, FeastType, Float64, String

from features.feature_repo.sources import CAMPAIGN_DAYS, CAMPAIGN_STATS, USER_CHANNEL, USER_DAYS
from features.messages import TAKEN_NAME
from mtorl.log.dataset import DatasetSpec, FeatureViewSpec, SpecError
from mtorl.window.window import AD_DECISION, HISTORY, PACKED, STATIC, history_types

Feature = tuple[FeastType, Any]
"""A feature's type in Feast, and its default value."""
_OWNED: dict[str, Any] = {"owner": "ads-platform", "tags": {"owner": "ads-platform"}}


@dataclass(frozen=True)
class Definitions:
    """The definitions of one feature repository."""

    entities: tuple[Entity, ...]
    views: tuple[FeatureView, ...]
    service: FeatureService

    @property
    def objects(self) -> list[Any]:
        """All objects that are registered in Feast's registry."""
        return [*self.entities, *self.views, self.service, *(view.batch_source for view in self.views)]


def build(spec: DatasetSpec, data: Path) -> Definitions:
    """Define the features of a data set for Feast.

    Args:
        data: Folder of the Parquet files. A relative path starts at the folder of Feast's repository.

    Raises:
        SpecError: A column has the name of a built-in feature, or the data set names an unknown view or field.
    """
    user = _entity("user", "user_id", "Person who sees the ads; the unit of every experiment")
    campaign = _entity("campaign", "campaign_id", "What an advertiser books; has its own budget")
    # Feast requires a source file, but never reads this one, because histories are computed from the log.
    history = FeatureView(
        name=HISTORY,
        description=f"Last {spec.window} touchpoints, packed by mtorl.window.packed; online only",
        entities=[user],
        schema=[Field(name=PACKED, dtype=Bytes, tags={"default": "null", "columns": json.dumps(history_types(spec))})],
        source=_source(HISTORY, data),
        # After so many days without a touchpoint, a new journey begins.
        ttl=timedelta(days=spec.journey_gap_days),
        **_OWNED,
    )
    static: list[FeatureView] = []
    if spec.static:
        kinds: dict[str, Feature] = {c.name: (Float64 if c.kind == "numeric" else String, None) for c in spec.static}
        # Static values never expire. In Feast, this is a TTL of 0.
        static = [_view(STATIC, user, "Columns of a user that do not change", kinds, data, timedelta(0))]
    none_yet = [0.0] * len(spec.channels)
    chosen = _chosen_defaults(spec)
    user_channel = _view(
        USER_CHANNEL,
        user,
        f"Touchpoints and clicks of the last {USER_DAYS} days up to a full hour; channels: {', '.join(spec.channels)}",
        {name: (Array(Float64), chosen.get(name, none_yet)) for name in ("uc_touchpoints", "uc_clicks")},
        data,
        timedelta(days=USER_DAYS),
    )
    # The rates of a campaign without touchpoints are unknown, not 0.
    stats = {"touchpoints": 0.0, "click_rate": None, "conversion_rate": None, "cost": None}
    campaign_stats = _view(
        CAMPAIGN_STATS,
        campaign,
        f"Touchpoints, rates and mean cost of the last {CAMPAIGN_DAYS * 24} hours up to a full hour",
        {f"campaign_{name}": (Float64, chosen.get(f"campaign_{name}", default)) for name, default in stats.items()},
        data,
        timedelta(days=CAMPAIGN_DAYS),
    )
    entities = {"user_id": user, "campaign_id": campaign}
    own = [_own(view, entities[view.key], data, chosen) for view in spec.features if view.key is not None]
    built_in = (user_channel, campaign_stats)
    _check_features(spec, built_in)
    of_the_data_set = {column.name for column in (*spec.context, *spec.static, *spec.outcomes)}
    of_the_data_set |= {field.name for view in own for field in view.features}
    if taken := of_the_data_set & {field.name for view in built_in for field in view.features}:
        raise SpecError(TAKEN_NAME(column=sorted(taken)[0]))
    views = {view.name: view for view in (*built_in, *own)}
    read = [views[some.view][[field.name for field in some.fields]] for some in spec.features]
    service = FeatureService(
        name=AD_DECISION,
        features=[history, *static, *read],
        description=f"Features of one ad decision, data set {spec.name}",
        **_OWNED,
    )
    return Definitions((user, campaign), (history, *static, *views.values()), service)


def _entity(name: str, key: str, description: str) -> Entity:
    return Entity(name=name, join_keys=[key], value_type=ValueType.STRING, description=description, **_OWNED)


def _source(name: str, data: Path) -> FileSource:
    return FileSource(
        name=name,
        path=str(data / f"{name}.parquet"),
        timestamp_field="timestamp",
        created_timestamp_column="created_timestamp",
        **_OWNED,
    )


def _view(
    name: str, entity: Entity, description: str, features: Mapping[str, Feature], data: Path, ttl: timedelta
) -> FeatureView:
    return FeatureView(
        name=name,
        description=description,
        entities=[entity],
        schema=[
            Field(name=feature, dtype=dtype, tags={"default": json.dumps(default)})
            for feature, (dtype, default) in features.items()
        ],
        source=_source(name, data),
        ttl=ttl,
        **_OWNED,
    )


def _own(view: FeatureViewSpec, entity: Entity, data: Path, chosen: Mapping[str, Any]) -> FeatureView:
    """Return the feature view of a file that a team provides. It reads a converted copy (`sources.own_view`)."""
    fields: dict[str, Feature] = {
        field.name: (
            Array(Float64) if field.by_channel else Float64 if field.kind == "numeric" else String,
            chosen[field.name],
        )
        for field in view.fields
    }
    return _view(view.view, entity, f"From {view.source}", fields, data, timedelta(hours=view.ttl_hours or 0))


def _chosen_defaults(spec: DatasetSpec) -> dict[str, Any]:
    """Return the default of each field that the model reads: None for `missing: unknown`, otherwise 0.0."""
    return {
        field.name: None if field.missing == "unknown" else [0.0] * len(spec.channels) if field.by_channel else 0.0
        for view in spec.features
        for field in view.fields
    }


def _check_features(spec: DatasetSpec, built_in: Sequence[FeatureView]) -> None:
    """Raise a SpecError if a feature view or a field of the data set is invalid."""
    views = {view.name: view for view in built_in}
    for chosen in spec.features:
        where = f"features: view {chosen.view!r}"
        if chosen.source is not None:
            if chosen.view.lower() in {*views, HISTORY, STATIC}:
                raise SpecError(f"{where}: a built-in view has this name. Choose another name")
            continue
        if chosen.view not in views:
            known = ", ".join(sorted(views))
            raise SpecError(f"{where}: not a built-in view ({known}). Your own view needs a source")
        types = {field.name: field.dtype for field in views[chosen.view].features}
        for field in chosen.fields:
            if field.name not in types:
                raise SpecError(f"{where}: no field {field.name!r}. The view has {', '.join(sorted(types))}")
            by_channel = types[field.name] == Array(Float64)
            if field.kind != "numeric" or field.by_channel != by_channel:
                wanted = "numeric" + ", by_channel: true" * by_channel
                raise SpecError(f"{where}: field {field.name!r} must have kind: {wanted}")
