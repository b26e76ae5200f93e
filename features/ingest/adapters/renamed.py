"""A log of somebody's own: the canonical columns under other names, in other units, or the same for every row."""

from __future__ import annotations

from collections.abc import Mapping

import ibis
import ibis.expr.datatypes as dt

from features.ingest.adapters.base import Adapter, lay_out, number, time, time_of_micros
from mtorl.log.dataset import DatasetSpec, outcome_time
from mtorl.log.sources import TOUCHPOINT_ID, Source

_HAS_ZONE = r"(?i):\d\d(\.\d+)?\s*(z|utc|[+-]\d\d(:?\d\d)?)$"  # at the end of a text
_MICROSECONDS = {"s": 1e6, "ms": 1e3, "us": 1.0}


class RenamedLog(Adapter):
    """What the description's `columns` says, and the canonical name where it says nothing."""

    def called(self, spec: DatasetSpec) -> Mapping[str, str]:
        """The names of the description."""
        return {name: source.column for name, source in spec.columns.items() if source.column is not None}

    def required(self, spec: DatasetSpec) -> tuple[str, ...]:
        """The canonical columns by the names that the file has for them, without those that have one value."""
        elsewhere = {name for name, source in spec.columns.items() if source.value is not None}
        later = spec.conversions.outcomes if spec.conversions else ()
        elsewhere |= {*later, *map(outcome_time, later)}
        canonical = [name for name in super().required(spec) if name not in elsewhere]
        canonical += [TOUCHPOINT_ID] * (TOUCHPOINT_ID in spec.optional_columns)
        names = [*canonical, *(name for name in spec.columns if name not in (*canonical, *elsewhere))]
        return tuple(dict.fromkeys(self.called(spec).get(name, name) for name in names))

    def adapt(self, raw: ibis.Table, spec: DatasetSpec) -> ibis.Table:
        """Rename, and bring numbers and times into the log's units."""
        columns = {name: value_of(raw, source) for name, source in spec.columns.items()}
        if "propensity" not in raw.columns:
            columns.setdefault("propensity", ibis.null("float64"))
        later = spec.conversions.outcomes if spec.conversions else ()
        columns |= {name: ibis.literal(0.0) for name in later}  # until the conversions are read
        for name in spec.optional_columns:
            if name in raw.columns and name not in map(outcome_time, later):
                columns.setdefault(name, raw[name])
        return lay_out(raw, spec, columns)


def value_of(raw: ibis.Table, source: Source) -> ibis.Value:
    """A column of the log, from what the description says of it."""
    if source.column is None:
        return ibis.literal(source.value)
    value = raw[source.column]
    if source.unit:
        return time_of_micros(number(value) * _MICROSECONDS[source.unit])
    if source.timezone:
        return _in_zone(value, source.timezone)
    if source.per == 1.0:
        return value
    scaled = number(value) / source.per
    return ibis.coalesce(scaled.cast("string"), value) if value.type().is_string() else scaled  # a fault stays visible


@ibis.udf.scalar.builtin(name="timezone", signature=((dt.string, dt.timestamp), dt.Timestamp(timezone="UTC", scale=6)))
def _instant(zone, time):
    """The instant at which clocks of a zone show a time."""


def _in_zone(value: ibis.Value, zone: str) -> ibis.Value:
    """Times of a zone; what says its own zone keeps it."""
    kind = value.type()
    if not kind.is_string():
        own = not (kind.is_date() or (kind.is_timestamp() and kind.timezone is None))
        return time(value) if own else _instant(zone, value.cast("timestamp"))
    text = value.strip()
    return ibis.ifelse(text.re_search(_HAS_ZONE), time(value), _instant(zone, text.try_cast("timestamp")))
