"""Features of the moment of a decision, the same at training and in the router."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mtorl.log.columns import WindowError
from mtorl.log.dataset import DatasetSpec, FeatureField
from mtorl.log.times import DAY_US, HOUR_US

Number = TypeVar("Number", float, NDArray[np.float64])


def request_features(request_us: Number, newest_touchpoint_us: Number | None) -> dict[str, Number | None]:
    """Hour of the day (UTC) and hours since the newest touchpoint; for one decision, or for many as arrays.

    Args:
        request_us: Time of the decision, microseconds since 1970.
        newest_touchpoint_us: Time of the user's newest earlier touchpoint; None (or NaN, in an array) if there is none.
    """
    recency = None if newest_touchpoint_us is None else (request_us - newest_touchpoint_us) / HOUR_US
    return {"hour_of_day": request_us % DAY_US / HOUR_US, "recency_hours": recency}


def stored_features(stored: Mapping[str, Any], spec: DatasetSpec) -> dict[str, Any]:
    """A value for each of `spec.feature_columns` at one decision, from the fields of feature views in a store's answer.

    A missing one is null or 0.0, as the description says. Raises WindowError unless a field by channel has one number
    for each channel.
    """
    values: dict[str, Any] = {}
    for view in spec.features:
        for field in view.fields:
            value = stored.get(field.name)
            names = spec.columns_of(field)
            if field.by_channel:
                values |= zip(names, _by_channel(value, field, len(names)), strict=True)
            else:
                values[field.name] = _or_missing(value, field)
    return values


def _by_channel(value: Any, field: FeatureField, channels: int) -> list[Any]:
    numbers = [None] * channels if value is None else list(value)
    if len(numbers) != channels:
        raise WindowError(f"features: {field.name} has {len(numbers)} values for {channels} channels")
    return [_or_missing(number, field) for number in numbers]


def _or_missing(value: Any, field: FeatureField) -> Any:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return 0.0 if field.missing == "zero" else None
    return value
