"""Parses a file's values, text or typed, as text, numbers and times; what can't be parsed becomes null."""

import ibis
import ibis.expr.datatypes as dt

from features.engine import timestamp_micros
from mtorl.log.sources import Source

NA = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""Texts that mean a missing number. In text columns, only blank text is missing, because "NA" may be a name."""

_TIME = "timestamp('UTC')"
_PLAUSIBLE = (-2_208_988_800_000_000, 7_258_118_400_000_000)  # 1900 .. 2200, us since 1970
_HAS_ZONE = r"(?i):\d\d(\.\d+)?\s*([a-z][a-z_/+-]*|[+-]\d\d(:?\d\d)?)$"  # at the end of a text: Z, EST, +02
_MICROSECONDS = {"s": 1e6, "ms": 1e3, "us": 1.0}


def has_value(value: ibis.Value, numeric: bool = False) -> ibis.Value:
    """Return whether the file has a value; never null."""
    if value.type().is_string():
        if numeric:  # comparing with NA is slow, so only texts that are not numbers are compared
            return ibis.ifelse(number(value).notnull(), True, value.strip().notin(NA).fill_null(False))
        # Text from "!" on in sort order starts with a visible character. Only other text has to be stripped.
        return ibis.ifelse(value >= "!", True, (value.strip() != "").fill_null(False))
    if value.type().is_floating():
        return value.notnull() & ~value.isnan()
    return value.notnull()


def text(value: ibis.Value) -> ibis.Value:
    """Return a value as a name: whole numbers without a decimal point (1.0 becomes "1"), and blank text as null."""
    if value.type().is_floating():  # writers store whole numbers as floats if some are missing
        whole = value.try_cast("int64")
        plain = ibis.ifelse(whole == value, whole.cast("string"), value.cast("string"))
        return ibis.ifelse(has_value(value), plain, ibis.null("string"))
    value = value.cast("string")
    return ibis.ifelse(has_value(value), value, ibis.null("string"))


def id_text(value: ibis.Value) -> ibis.Value:
    """Return the text of an id that a writer may have turned into a float: "2.0" becomes "2"."""
    return text(value).re_replace(r"\.0$", "")


def number(value: ibis.Value) -> ibis.Value:
    """Return a value as a finite number; "true" and "false" are 1 and 0."""
    if value.type().is_string():
        word = value.strip().lower()
        words = ibis.cases((word == "true", 1.0), (word == "false", 0.0))
        return ibis.coalesce(_finite(value.try_cast("float64")), words)
    if value.type().is_boolean():
        return value.cast("int8").cast("float64")
    return _finite(value.cast("float64")) if value.type().is_numeric() else ibis.null("float64")


_FLAGS = {"yes": 1.0, "no": 0.0, "t": 1.0, "f": 0.0, "y": 1.0, "n": 0.0}  # in addition to those of `number`


def flag(value: ibis.Value) -> ibis.Value:
    """Return whether something happened, as 1 or 0: as `number`, and also from "yes", "t", "y", "no", "f" and "n".

    Amounts are not parsed in this way, so that "n" is a fault in an amount.
    """
    if not value.type().is_string():
        return number(value)
    word = value.strip().lower()
    return ibis.coalesce(number(value), ibis.cases(*((word == name, told) for name, told in _FLAGS.items())))


def _finite(value: ibis.Value) -> ibis.Value:
    return ibis.ifelse(value.isnan() | value.isinf(), ibis.null("float64"), value)


def null_where(value: ibis.Value, mark: int) -> ibis.Value:
    """Return a value, or null where the file has the number that means missing."""
    return value.nullif(str(mark)) if value.type().is_string() else value.nullif(mark)


def time(value: ibis.Value) -> ibis.Value:
    """Return a value as a time in UTC with microseconds: ISO 8601 text or a typed time; without a zone it is UTC.

    A number is not a time, because its unit is unknown. Times before 1900 or after 2200 are null.
    """
    if value.type().is_string():
        value = value.strip().try_cast(_TIME)
    elif value.type().is_timestamp() or value.type().is_date():
        value = value.cast(_TIME)
    else:
        return ibis.null(_TIME)
    first, last = (timestamp_micros(ibis.literal(us, "int64")) for us in _PLAUSIBLE)
    return ibis.ifelse((value >= first) & (value < last), value, ibis.null(_TIME))


def time_of_micros(micros: ibis.Value) -> ibis.Value:
    """Return a number of microseconds since 1970, which may be null, as a time."""
    plausible = (micros >= _PLAUSIBLE[0]) & (micros < _PLAUSIBLE[1])
    return timestamp_micros(ibis.ifelse(plausible, micros, ibis.null(micros.type())).round().cast("int64"))


# ---- from the description of a source


def value_of(raw: ibis.Table, source: Source, decimal: str = ".") -> ibis.Value:
    """Return a column of the log, from the description of its source; `decimal` is the decimal mark of its numbers."""
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
    """Return whether a time is in the hour that repeats in its zone when daylight saving time ends."""
    assert source.column is not None and source.timezone is not None
    clock = _clock(raw[source.column], source)
    instant = _instant(source.timezone, clock)
    hour = ibis.interval(hours=1)
    again = [_shown(source.timezone, other) == clock for other in (instant - hour, instant + hour)]
    return ibis.or_(*again).fill_null(False)


@ibis.udf.scalar.builtin(name="timezone", signature=((dt.string, dt.timestamp), dt.Timestamp(timezone="UTC", scale=6)))
def _instant(zone, time):
    """Convert a local time in a time zone to UTC."""


@ibis.udf.scalar.builtin(name="timezone", signature=((dt.string, dt.Timestamp(timezone="UTC", scale=6)), dt.timestamp))
def _shown(zone, instant):
    """Convert an instant to the local time of a zone."""


@ibis.udf.scalar.builtin(name="try_strptime", signature=((dt.string, dt.string), dt.timestamp))
def _parsed(text, form):
    """Parse a text as a time; null if it has another format."""


@ibis.udf.scalar.builtin(name="try_strptime", signature=((dt.string, dt.string), dt.Timestamp(timezone="UTC", scale=6)))
def _parsed_instant(text, form):
    """Parse a text with a zone as an instant; null if it has another format."""


def parsed(value: ibis.Value, form: str) -> ibis.Value:
    """Parse a text as a time, in UTC if the format has no zone; null if the text has another format."""
    text = value.cast("string").strip()
    return time(_parsed_instant(text, form) if _says_zone(form) else _instant("UTC", _parsed(text, form)))


def _clock(value: ibis.Value, source: Source) -> ibis.Value:
    """Return the local time in the source's zone; null if a value has its own zone, or is not a time."""
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
    """Return times in the source's format and zone; a value with its own zone keeps that zone."""
    if source.format and _says_zone(source.format):
        return parsed(value, source.format)
    instant = _instant(source.timezone or "UTC", _clock(value, source))
    return time(instant if source.format else ibis.coalesce(instant, time(value)))


def _says_zone(form: str) -> bool:
    return "%z" in form or "%Z" in form


def with_point(value: ibis.Value) -> ibis.Value:
    """Replace decimal commas by points; other texts still fail to parse as numbers."""
    text = value.strip()
    grouped = text.re_search(r"^[+-]?\d{1,3}(\.\d{3})+(,\d*)?$")
    point = ibis.ifelse(grouped, text.replace(".", ""), text).replace(",", ".")
    other = text.contains(".") & ~grouped  # 1.5 is not a number if commas are decimal marks
    return ibis.cases((other, text + " (decimal mark is a comma)"), else_=point)
