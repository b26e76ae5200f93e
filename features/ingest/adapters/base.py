"""What an adapter is, and what the adapters share: reading a file's values as text, numbers and times.

An adapter knows one file layout. It renames columns and folds several into one; it judges nothing. A value that can't
be read as what it should be becomes null, and the data contract says later whether that is a fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import ibis

from features.engine import Engine, timestamp_micros
from features.ingest.adapters import files
from mtorl.log.dataset import DatasetSpec

if TYPE_CHECKING:
    from pathlib import Path

SAME = "#same"
"""Optional column of `Adapter.adapt`: rows of a user at the same time are one touchpoint if it is equal, too."""

NA = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""What stands for a missing number. In columns of text only blank text is missing: "NA" may be a name."""

_TIME = "timestamp('UTC')"
_PLAUSIBLE = (-2_208_988_800_000_000, 7_258_118_400_000_000)  # 1900 .. 2200, us since 1970


class Adapter:
    """Knows one file layout: this one the canonical columns (CSV, or Parquet from any system), a subclass another one.

    Attributes:
        source: Names in the file of canonical columns that have another name there.
        never_context: Columns of the file that can't be context, and why.
    """

    source: ClassVar[Mapping[str, str]] = {}
    never_context: ClassVar[Mapping[str, str]] = {}

    def called(self, spec: DatasetSpec) -> Mapping[str, str]:
        """Names in the file of canonical columns that have another name there."""
        return self.source

    def required(self, spec: DatasetSpec) -> tuple[str, ...]:
        """Columns that the log file must have; of the canonical ones all, the propensity only if it is logged."""
        canonical = tuple(c for c in spec.log_columns if c != "propensity" or spec.propensity == "logged")
        return (*canonical, *spec.outcome_times.values())

    def read(self, engine: Engine, path: Path, spec: DatasetSpec, scratch: Path) -> ibis.Table:
        """Read a log file as it is: columns by their names in the file, text where it is CSV or JSON, and `files.ROW`.

        The table needs the engine and the folder `scratch`.
        """
        parts = files.parts(path)
        names = files.columns_of(path, parts, spec.file.separator)
        files.check_columns(path, names, self.required(spec), spec)
        return files.table(engine, parts, names, scratch, spec.file.separator)

    def adapt(self, raw: ibis.Table, spec: DatasetSpec) -> ibis.Table:
        """Turn the file's columns into `files.ROW` and the columns of `spec.log_columns`, in any type, unjudged.

        A faulty value stays as it is in the file; an absent propensity is null. Further columns are those of
        `spec.optional_columns` that the file has, and `SAME`.
        """
        columns = {} if "propensity" in raw.columns else {"propensity": ibis.null("float64")}
        columns |= {name: raw[name] for name in spec.optional_columns if name in raw.columns}
        return lay_out(raw, spec, columns)


def lay_out(raw: ibis.Table, spec: DatasetSpec, columns: Mapping[str, ibis.Value]) -> ibis.Table:
    """The canonical columns: from `columns`, else those of the same name in the file."""
    named = {name: columns[name] if name in columns else raw[name] for name in spec.log_columns}
    further = {name: columns[name] for name in (*spec.optional_columns, SAME) if name in columns}
    return raw.select(files.ROW, **named, **further)


def attributes(spec: DatasetSpec, *derived: str) -> tuple[str, ...]:
    """Context, static and further outcome columns, besides those that the adapter derives."""
    columns = (*spec.context, *spec.static, *spec.outcomes)
    return tuple(c.name for c in columns if c.name not in derived)


# ---- values, from text or typed


def has_value(value: ibis.Value, numeric: bool = False) -> ibis.Value:
    """Whether the file has a value at all; never null."""
    if value.type().is_string():
        if numeric:  # comparing with all of NA is slow, so only what is no number is compared
            return ibis.ifelse(number(value).notnull(), True, value.strip().notin(NA).fill_null(False))
        # Text that starts with "!" or a later character is not blank; only the rest has to be stripped.
        return ibis.ifelse(value >= "!", True, (value.strip() != "").fill_null(False))
    if value.type().is_floating():
        return value.notnull() & ~value.isnan()
    return value.notnull()


def text(value: ibis.Value) -> ibis.Value:
    """A value as a name: whole numbers without a decimal point (1.0 is "1"), blank text as null."""
    if value.type().is_floating():  # a writer made whole numbers floats because some were missing
        whole = value.try_cast("int64")
        plain = ibis.ifelse(whole == value, whole.cast("string"), value.cast("string"))
        return ibis.ifelse(has_value(value), plain, ibis.null("string"))
    value = value.cast("string")
    return ibis.ifelse(has_value(value), value, ibis.null("string"))


def id_text(value: ibis.Value) -> ibis.Value:
    """Text of an id that a writer may have turned into a float: "2.0" is "2"."""
    return text(value).re_replace(r"\.0$", "")


def number(value: ibis.Value) -> ibis.Value:
    """A value as a finite number; "true" and "false" are 1 and 0."""
    if value.type().is_string():
        word = value.strip().lower()
        words = ibis.cases((word == "true", 1.0), (word == "false", 0.0))
        return ibis.coalesce(_finite(value.try_cast("float64")), words)
    if value.type().is_boolean():
        return value.cast("int8").cast("float64")
    return _finite(value.cast("float64")) if value.type().is_numeric() else ibis.null("float64")


_FLAGS = {"yes": 1.0, "no": 0.0, "t": 1.0, "f": 0.0, "y": 1.0, "n": 0.0}  # besides those of `number`


def flag(value: ibis.Value) -> ibis.Value:
    """A value that says whether something happened, as `number`; "yes", "t" and "y" are 1 as well, their opposites 0.

    An amount is not read so: "n" is a fault there.
    """
    if not value.type().is_string():
        return number(value)
    word = value.strip().lower()
    return ibis.coalesce(number(value), ibis.cases(*((word == name, told) for name, told in _FLAGS.items())))


def _finite(value: ibis.Value) -> ibis.Value:
    return ibis.ifelse(value.isnan() | value.isinf(), ibis.null("float64"), value)


def null_where(value: ibis.Value, mark: int) -> ibis.Value:
    """A value, null where the file has a number that means missing."""
    return value.nullif(str(mark)) if value.type().is_string() else value.nullif(mark)


def time(value: ibis.Value) -> ibis.Value:
    """A value as a time in UTC with microseconds: ISO 8601 text or a typed time; without a zone it is UTC.

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


def time_of_micros(micros: ibis.Value) -> ibis.Value:
    """A number of microseconds since 1970, which may be null, as a time."""
    plausible = (micros >= _PLAUSIBLE[0]) & (micros < _PLAUSIBLE[1])
    return timestamp_micros(ibis.ifelse(plausible, micros, ibis.null(micros.type())).round().cast("int64"))


# ---- one-hot columns


def one_hot(raw: ibis.Table, names: Sequence[str]) -> tuple[ibis.Value, ibis.Value]:
    """The name of the one column that is 1 (null where none or several are), and how many are 1."""
    flags = [_is_set(raw[name]) for name in names]
    count = sum((flag.cast("int64") for flag in flags), start=ibis.literal(0))
    chosen = ibis.cases(*zip(flags, names, strict=True), else_=ibis.null("string"))
    return ibis.ifelse(count == 1, chosen, ibis.null("string")), count


def one_hot_or_count(raw: ibis.Table, names: Sequence[str]) -> ibis.Value:
    """As `one_hot`; where not exactly one is 1, a text that is no channel's name and says what is wrong."""
    chosen, count = one_hot(raw, names)
    return ibis.coalesce(chosen, count.cast("string") + f" of {len(names)} one-hot columns set")


def _is_set(value: ibis.Value) -> ibis.Value:
    if value.type().is_string():
        return value.isin(["1", "1.0", "True", "true"]).fill_null(False)
    return (has_value(value) & (value == (True if value.type().is_boolean() else 1))).fill_null(False)
