"""Names in the Feast repository: its views, its services, and the columns of a user's stored history."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from mtorl.log.dataset import DatasetSpec
from mtorl.window.window import history_columns

HISTORY = "user_history"
STATIC = "user_static"
USER_CHANNEL = "user_channel"
CAMPAIGN_STATS = "campaign_stats"
REQUEST_TIME = "request_time"

AD_DECISION = "ad_decision_v1"
"""Service with the features of one decision; a change of their meaning makes a new version."""


def outcome_columns(spec: DatasetSpec) -> Mapping[str, float]:
    """The columns of a history that are patched once an outcome becomes known, and their values until then."""
    times = dict.fromkeys(spec.outcome_times.values(), math.nan)
    return {f"hist_{name}": value for name, value in {**dict.fromkeys(spec.window_outcomes, 0.0), **times}.items()}


def history_types(spec: DatasetSpec) -> dict[str, Literal["float64", "string"]]:
    """The columns of a user's history, lists of the last touchpoints, with the type of their elements; times first.

    This adds `hist_timestamp` (us since 1970) to the columns of the model's window: Feast's own list of timestamps
    keeps whole seconds only.
    """
    texts = {"hist_channel", *(f"hist_{c.name}" for c in spec.context if c.kind == "categorical")}
    names = dict.fromkeys(("hist_timestamp", *history_columns(spec)))
    return {name: "string" if name in texts else "float64" for name in names}
