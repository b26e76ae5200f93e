"""Values of a file, text or typed, as text, numbers and times; what can't be made out becomes null."""

from __future__ import annotations

import ibis

from features.engine import timestamp_micros

NA = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")  # in columns of numbers; in text only "" is missing
_TIME = "timestamp('UTC')"
_PLAUSIBLE = (-2_208_988_800_000_000, 7_258_118_400_000_000)  # 1900 .. 2200, us since 1970


def given(value: ibis.Value, numeric: bool = False) -> ibis.Value:
    """Whether the file has a value at all; never null."""
    if value.type().is_string():
        if numeric:  # the list is long: look only at what is no number
            return ibis.ifelse(number(value).notnull(), True, value.strip().notin(NA).fill_null(False))
        return ibis.ifelse(value >= "!", True, (value.strip() != "").fill_null(False))  # "!" comes after all blanks
    if value.type().is_floating():
        return value.notnull() & ~value.isnan()
    return value.notnull()


def text(value: ibis.Value) -> ibis.Value:
    """As a name: whole numbers without a decimal point (1.0 is "1"), blank text as null."""
    if value.type().is_floating():  # whole numbers became floats where a writer had some missing
        whole = value.try_cast("int64")
        plain = ibis.ifelse(whole == value, whole.cast("string"), value.cast("string"))
        return ibis.ifelse(given(value), plain, ibis.null("string"))
    value = value.cast("string")
    return ibis.ifelse(given(value), value, ibis.null("string"))


def number(value: ibis.Value) -> ibis.Value:
    """As a finite number; "true" and "false" are 1 and 0."""
    if value.type().is_string():
        word = value.strip().lower()
        words = ibis.cases((word == "true", 1.0), (word == "false", 0.0))
        return ibis.coalesce(_finite(value.try_cast("float64")), words)
    if value.type().is_boolean():
        return value.cast("int8").cast("float64")
    return _finite(value.cast("float64")) if value.type().is_numeric() else ibis.null("float64")


def _finite(value: ibis.Value) -> ibis.Value:
    return ibis.ifelse(value.isnan() | value.isinf(), ibis.null("float64"), value)


def time(value: ibis.Value) -> ibis.Value:
    """As a time in UTC with microseconds: ISO 8601 text or a typed time; without a zone it is UTC.

    A number is no time (its unit is unknown), nor is one before 1900 or after 2200.
    """
    if value.type().is_string():
        value = value.strip().try_cast(_TIME)
    elif value.type().is_timestamp() or value.type().is_date():
        value = value.cast(_TIME)
    else:
        return ibis.null(_TIME)
    first, last = (timestamp_micros(ibis.literal(us, "int64")) for us in _PLAUSIBLE)
    return ibis.ifelse((value >= first) & (value < last), value, ibis.null(_TIME))


def moment(micros: ibis.Value) -> ibis.Value:
    """Microseconds since 1970 (a number, may be null) as a time."""
    plausible = (micros >= _PLAUSIBLE[0]) & (micros < _PLAUSIBLE[1])
    return timestamp_micros(ibis.ifelse(plausible, micros, ibis.null(micros.type())).round().cast("int64"))
