"""Files that already have the canonical columns: CSV, or Parquet from any system; and the simulator's own logs."""

from __future__ import annotations

import ibis

from features.ingest.adapters.base import Adapter, lay_out
from mtorl.log.dataset import DatasetSpec


class Touchpoints(Adapter):
    """Canonical columns.

    Optional: propensity, unless the data set says it is logged; created_timestamp, when the row arrived.
    """

    def required(self, spec: DatasetSpec) -> tuple[str, ...]:
        """All canonical columns; the propensity only if the data set says that it is logged."""
        return tuple(c for c in spec.columns if c != "propensity" or spec.propensity == "logged")

    def adapt(self, raw: ibis.Table, spec: DatasetSpec) -> ibis.Table:
        """Leave the columns as they are; an absent propensity is null."""
        columns = {} if "propensity" in raw.columns else {"propensity": ibis.null("float64")}
        if "created_timestamp" in raw.columns:
            columns["created_timestamp"] = raw["created_timestamp"]
        return lay_out(raw, spec, columns)
