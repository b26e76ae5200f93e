"""Parses the values of a column as text, numbers or times. A value that can't be parsed becomes null."""

import ibis
import ibis.expr.datatypes as dt

from features.engine import timestamp_micros
from mtorl.log.sources import Source

NA = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""Texts that stand for a missing value in columns of numbers. In text columns, only blank text means a missing value,
because "NA" may be a name."""

_TIME = "timestamp('UTC')"
# Times from 1900 until before 2200 are plausible, in microseconds since 1970.
_PLAUSIBLE = (-2_208_988_800_000_000, 7_258_118_400_000_000)
# A time zone at the end of a text, such as Z, EST or +02.
_HAS_ZONE = r"(?i):\d\d(\.\d+)?\s*([a-z][a-z_/+-]*|[+-]\d\d(:?\d\d)?)$"
_MICROSECONDS = {"s": 1e6, "ms": 1e3, "us": 1.0}


def has_value(value: ibis.Value, numeric: bool = False) -> ibis.Value:
    """Return true for each row in which the file has a value, and false otherwise, never null.

    Args:
        numeric: Treat texts such as "NA" as missing, too.
    """
    if value.type().is_string():
        # The comparison with `NA` is slow, so it is skipped for numbers.
        if numeric:
            return ibis.ifelse(number(value).notnull(), True, value.strip().notin(NA).fill_null(False))
        # A text that sorts at or after "!" starts with a visible character, so it need not be stripped.
        return ibis.ifelse(value >= "!", True, (value.strip() != "").fill_null(False))
    if value.type().is_floating():
        return value.notnull() & ~value.isnan()
    return value.notnull()


def text(value: ibis.Value) -> ibis.Value:
    """Return a value as text, such as a name or an id. A blank text becomes null, and 1.0 becomes "1"."""
    # Many programs store whole numbers as floats if the column has missing values.
    if value.type().is_floating():
        whole = value.try_cast("int64")
        plain = ibis.ifelse(whole == value, whole.cast("string"), value.cast("string"))
        return ibis.ifelse(has_value(value), plain, ibis.null("string"))
    value = value.cast("string")
    return ibis.ifelse(has_value(value), value, ibis.null("string"))


def id_text(value: ibis.Value) -> ibis.Value:
    """Return an id as text, without the final ".0" of ids that a program has stored as floats."""
    return text(value).re_replace(r"\.0$", "")


def number(value: ibis.Value) -> ibis.Value:
    """Return a value as a finite number. The texts "true" and "false" become 1 and 0."""
    if value.type().is_string():
        word = value.strip().lower()
        words = ibis.cases((word == "true", 1.0), (word == "false", 0.0))
        return ibis.coalesce(_finite(value.try_cast("float64")), words)
    if value.type().is_boolean():
        return value.cast("int8").cast("float64")
    return _finite(value.cast("float64")) if value.type().is_numeric() else ibis.null("float64")


_FLAGS = {"yes": 1.0, "no": 0.0, "t": 1.0, "f": 0.0, "y": 1.0, "n": 0.0}


def flag(value: ibis.Value) -> ibis.Value:
    """Return 1 if an event happened and 0 if not. Unlike `number`, also parse texts such as "yes" and "n"."""
    if not value.type().is_string():
        return number(value)
    word = value.strip().lower()
    return ibis.coalesce(number(value), ibis.cases(*((word == name, told) for name, told in _FLAGS.items())))


def _finite(value: ibis.Value) -> ibis.Value:
    return ibis.ifelse(value.isnan() | value.isinf(), ibis.null("float64"), value)


def null_where(value: ibis.Value, mark: int) -> ibis.Value:
    """Replace the number `mark`, which the file writes in place of missing values, by null."""
    return value.nullif(str(mark)) if value.type().is_string() else value.nullif(mark)


def time(value: ibis.Value) -> ibis.Value:
    """Convert text, a date or a timestamp to a time in UTC.

    A value without a time zone is read as UTC. A number becomes null, because its unit is unknown.
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
    """Convert microseconds since 1970 to a time. Null and implausible values become null."""
    plausible = (micros >= _PLAUSIBLE[0]) & (micros < _PLAUSIBLE[1])
    return timestamp_micros(ibis.ifelse(plausible, micros, ibis.null(micros.type())).round().cast("int64"))


# ---- from the description of a source


def value_of(raw: ibis.Table, source: Source, decimal: str = ".") -> ibis.Value:
    """Return a column of the log, computed from the file as the description's `source` says."""
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
    # an unparsable text stays visible
    return ibis.coalesce(scaled.cast("string"), value) if value.type().is_string() else scaled


def repeated_hour(raw: ibis.Table, source: Source) -> ibis.Value:
    """Return true if a time is in the hour that occurs twice when daylight saving time ends in its time zone."""
    assert source.column is not None and source.timezone is not None
    clock = _clock(raw[source.column], source)
    instant = _instant(source.timezone, clock)
    hour = ibis.interval(hours=1)
    again = [_shown(source.timezone, other) == clock for other in (instant - hour, instant + hour)]
    return ibis.or_(*again).fill_null(False)


@ibis.udf.scalar.builtin(name="timezone", signature=((dt.string, dt.timestamp), dt.Timestamp(timezone="UTC", scale=6)))
def _instant(zone, time):
    """Convert a local time in a time zone to a time in UTC."""


@ibis.udf.scalar.builtin(name="timezone", signature=((dt.string, dt.Timestamp(timezone="UTC", scale=6)), dt.timestamp))
def _shown(zone, instant):
    """Convert a time in UTC to the local time in a time zone."""


@ibis.udf.scalar.builtin(name="try_strptime", signature=((dt.string, dt.string), dt.timestamp))
def _parsed(text, form):
    """Parse a text as a time without a zone, or return null."""


@ibis.udf.scalar.builtin(name="try_strptime", signature=((dt.string, dt.string), dt.Timestamp(timezone="UTC", scale=6)))
def _parsed_instant(text, form):
    """Parse a text with a time zone as a time in UTC, or return null."""


def parsed(value: ibis.Value, form: str) -> ibis.Value:
    """Parse a text in the format `form`, or return null. A format without a time zone means UTC."""
    text = value.cast("string").strip()
    return time(_parsed_instant(text, form) if _says_zone(form) else _instant("UTC", _parsed(text, form)))


def _clock(value: ibis.Value, source: Source) -> ibis.Value:
    """Parse values as local times. A value that has its own time zone, or that is not a time, becomes null."""
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
    """Convert values to times in UTC, with the format of `source`, whose time zone is the default."""
    if source.format and _says_zone(source.format):
        return parsed(value, source.format)
    instant = _instant(source.timezone or "UTC", _clock(value, source))
    return time(instant if source.format else ibis.coalesce(instant, time(value)))


def _says_zone(form: str) -> bool:
    return "%z" in form or "%Z" in form


def with_point(value: ibis.Value) -> ibis.Value:
    """Replace decimal commas by points: "1.234,5" becomes "1234.5". A text such as "1.5" becomes invalid."""
    text = value.strip()
    grouped = text.re_search(r"^[+-]?\d{1,3}(\.\d{3})+(,\d*)?$")
    point = ibis.ifelse(grouped, text.replace(".", ""), text).replace(",", ".")
    # A point that does not group thousands, as in "1.5".
    other = text.contains(".") & ~grouped
    return ibis.cases((other, text + " (decimal mark is a comma)"), else_=point)
