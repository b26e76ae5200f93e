"""A log of somebody's own: the canonical columns under other names, in other units, or the same for every row."""

from __future__ import annotations

from collections.abc import Mapping

import ibis
import ibis.expr.datatypes as dt

from features.ingest.adapters.base import Adapter, lay_out, number, time, time_of_micros
from mtorl.log.dataset import DatasetSpec, outcome_time
from mtorl.log.sources import TOUCHPOINT_ID, Source

_HAS_ZONE = r"(?i):\d\d(\.\d+)?\s*([a-z][a-z_/+-]*|[+-]\d\d(:?\d\d)?)$"  # at the end of a text: Z, EST, +02
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
        own = {name: Source.model_validate({"column": name}) for name in spec.log_columns if name in raw.columns}
        columns = {
            name: value_of(raw, source, spec.file.decimal if name in spec.numbers else ".")
            for name, source in {**own, **spec.columns}.items()
        }
        if columns["channel"].type().is_string():  # the description's channels have no outer spaces
            columns["channel"] = columns["channel"].strip()
        if "propensity" not in raw.columns:
            columns.setdefault("propensity", ibis.null("float64"))
        later = spec.conversions.outcomes if spec.conversions else ()
        columns |= {name: ibis.literal(0.0) for name in later}  # until the conversions are read
        for name in spec.optional_columns:
            if name in raw.columns and name not in map(outcome_time, later):
                columns.setdefault(name, raw[name])
        return lay_out(raw, spec, columns)


def value_of(raw: ibis.Table, source: Source, decimal: str = ".") -> ibis.Value:
    """A column of the log, from the description of its source; `decimal` is the decimal mark of its numbers."""
    if source.column is None:
        return ibis.literal(source.value)
    value = raw[source.column]
    if source.unit:
        return time_of_micros(number(value) * _MICROSECONDS[source.unit])
    if source.timezone or source.format:
        return _time(value, source)
    if decimal == "," and value.type().is_string():
        value = with_point(value)
    if source.per == 1.0:
        return value
    scaled = number(value) / source.per
    return ibis.coalesce(scaled.cast("string"), value) if value.type().is_string() else scaled  # a fault stays visible


def repeated_hour(raw: ibis.Table, source: Source) -> ibis.Value:
    """Whether a time stands in the hour that clocks of its zone show twice, when summer ends."""
    assert source.column is not None and source.timezone is not None
    clock = _clock(raw[source.column], source)
    instant = _instant(source.timezone, clock)
    hour = ibis.interval(hours=1)
    again = [_shown(source.timezone, other) == clock for other in (instant - hour, instant + hour)]
    return ibis.or_(*again).fill_null(False)


@ibis.udf.scalar.builtin(name="timezone", signature=((dt.string, dt.timestamp), dt.Timestamp(timezone="UTC", scale=6)))
def _instant(zone, time):
    """The instant at which clocks of a zone show a time."""


@ibis.udf.scalar.builtin(name="timezone", signature=((dt.string, dt.Timestamp(timezone="UTC", scale=6)), dt.timestamp))
def _shown(zone, instant):
    """What clocks of a zone show at an instant."""


@ibis.udf.scalar.builtin(name="try_strptime", signature=((dt.string, dt.string), dt.timestamp))
def _parsed(text, form):
    """A text as a time, null where it has another format."""


@ibis.udf.scalar.builtin(name="try_strptime", signature=((dt.string, dt.string), dt.Timestamp(timezone="UTC", scale=6)))
def _parsed_instant(text, form):
    """A text with its zone as a time, null where it has another format."""


def parsed(value: ibis.Value, form: str) -> ibis.Value:
    """A text as a time in a format, in UTC where the format has no zone; null where it has another format."""
    text = value.cast("string").strip()
    return time(_parsed_instant(text, form) if _says_zone(form) else _instant("UTC", _parsed(text, form)))


def _clock(value: ibis.Value, source: Source) -> ibis.Value:
    """What a clock of the source's zone shows; null where a value says its own zone, or is no time."""
    kind = value.type()
    if source.format:
        text = value.cast("string").strip()
        return ibis.null("timestamp") if _says_zone(source.format) else _parsed(text, source.format)
    if kind.is_string():
        text = value.strip()
        return ibis.ifelse(text.re_search(_HAS_ZONE), ibis.null("timestamp"), text.try_cast("timestamp"))
    own = not (kind.is_date() or (kind.is_timestamp() and kind.timezone is None))
    return ibis.null("timestamp") if own else value.cast("timestamp")


def _time(value: ibis.Value, source: Source) -> ibis.Value:
    """Times in the source's format and zone; what says its own zone keeps it."""
    if source.format and _says_zone(source.format):
        return parsed(value, source.format)
    instant = _instant(source.timezone or "UTC", _clock(value, source))
    return time(instant if source.format else ibis.coalesce(instant, time(value)))


def _says_zone(form: str) -> bool:
    return "%z" in form or "%Z" in form


def with_point(value: ibis.Value) -> ibis.Value:
    """Numbers with a decimal comma as numbers with a point; what is no such number stays no number."""
    text = value.strip()
    grouped = text.re_search(r"^[+-]?\d{1,3}(\.\d{3})+(,\d*)?$")
    point = ibis.ifelse(grouped, text.replace(".", ""), text).replace(",", ".")
    other = text.contains(".") & ~grouped  # 1.5 is no number here
    return ibis.cases((other, text + " (decimal mark is a comma)"), else_=point)
