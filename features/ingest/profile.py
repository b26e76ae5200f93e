"""Profiles a file without a description: its format, and the values of its columns.

    profile = Profile.of(engine, Path("log.csv"), scratch, most_rows=1_000_000)
    profile.file                             # {"separator": ";", "decimal": ","}, as in a description
    profile.facts["cost"].numeric

Values are parsed as in ingestion, so a column of numbers here is numeric there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from pathlib import Path

import ibis

from features import messages
from features.engine import Engine
from features.ingest.adapters import files, values
from mtorl.log.sources import TimeUnit
from mtorl.log.touchpoints import LogError
from mtorl.runtime.sql import sql_text

FEW = 20  # most distinct values of a column of codes

_SAMPLE = 10_000  # rows to compare with time formats
_COMMA = r"^[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?$"

_DAYS = (
    *("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d"),
    *("%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d %b %Y", "%d-%b-%Y", "%d/%b/%Y", "%b %d, %Y", "%b %d %Y"),
    *("%d %B %Y", "%B %d, %Y", "%B %d %Y"),
)
_CLOCKS = ("%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%H%M%S", "%I:%M %p", "%I:%M:%S %p", "%H:%M:%S %z")
_NO_MARK = re.compile(r"[\w\s%]+")  # removing these from a time leaves the punctuation of its format
_FORMATS = (*_DAYS, *map("".join, product(_DAYS, (" ", ", ", "T", ":"), _CLOCKS)))


@dataclass(frozen=True)
class Facts:
    """Counts of the values of one column."""

    name: str
    present: int  # rows with a value
    numbers: int  # values that are numbers
    times: int  # values that are times
    flags: int  # values such as 0 and 1, true and false, yes and no
    whole: int  # numbers without decimals
    distinct: int
    low: float
    high: float
    formats: tuple[str, ...] = ()  # formats that fit its times if not ISO 8601, likeliest first

    @property
    def numeric(self) -> bool:
        """Whether every value is a number."""
        return self.present > 0 and self.numbers == self.present

    @property
    def flag(self) -> bool:
        """Whether every value is a yes or a no."""
        return self.present > 0 and self.flags == self.present

    @property
    def outcome(self) -> bool:
        """Whether the column can be an outcome in a gain."""
        return (self.numeric or self.flag) and self.unit is None

    @property
    def kind(self) -> str:
        """Kind of the column in a description; a few distinct whole numbers are categories."""
        return "categorical" if not self.numeric or (self.whole == self.present and self.distinct <= FEW) else "numeric"

    @property
    def time(self) -> bool:
        """Whether every value is a time, or a number that can be a time."""
        return self.present > 0 and (self.times == self.present or self.unit is not None)

    @property
    def unit(self) -> TimeUnit | None:
        """Unit in which all values are times between 1990 and 2100; None if there is none."""
        scales: tuple[tuple[TimeUnit, float], ...] = (("s", 1.0), ("ms", 1e3), ("us", 1e6))
        inside = (unit for unit, scale in scales if 6.3e8 * scale <= self.low and self.high <= 4.1e9 * scale)
        return next(inside, None) if self.numeric else None


@dataclass(frozen=True)
class Profile:
    """The format of a file and the facts of its columns."""

    table: ibis.Table
    rows: int
    file: Mapping[str, str]  # field of a description: `separator` and `decimal`, if not the defaults
    facts: Mapping[str, Facts]  # by column

    @classmethod
    def of(cls, engine: Engine, path: Path, scratch: Path, most_rows: int) -> Profile:
        """Read a file or a folder, at most `most_rows` rows, and profile it."""
        with files.readable(path):
            separator = _separator(engine, files.parts(path)[0])
            table = files.read(engine, path, scratch, separator).limit(most_rows)
            texts = [name for name in table.columns if table[name].type().is_string()]
            decimal = "," if _has_decimal_commas(table, texts) else "."
            some = table.select(*texts).limit(_SAMPLE).to_pandas() if texts else {}
            filled = {name: [value for value in some[name].dropna().str.strip() if value] for name in texts}
            formats = {name: _formats(table, name, filled[name]) for name in texts}
            facts, rows = _facts(table, decimal, formats)
        if not rows:
            raise LogError(messages.NO_ROWS(file=path))
        file = {"separator": separator} if separator else {}
        return cls(table, rows, file | ({"decimal": decimal} if decimal != "." else {}), facts)


def _separator(engine: Engine, path: Path) -> str | None:
    """Return the separator of a text file's columns, if it differs from that of the file's extension."""
    if not (usual := files.separator_of(path)):
        return None
    sniffed = engine.connection.raw_sql(f"SELECT Delimiter FROM sniff_csv({sql_text(path)})").fetchall()[0][0]
    return sniffed if sniffed != usual and sniffed in files.SEPARATORS else None


def _has_decimal_commas(table: ibis.Table, texts: list[str]) -> bool:
    """Return whether some column contains only numbers, and some of them with a decimal comma."""
    figures: dict[str, ibis.Value] = {}
    for i, name in enumerate(texts):
        figures[f"commas{i}"] = table[name].contains(",").sum()
        fits = table[name].strip().re_search(_COMMA) | ~values.has_value(table[name], numeric=True)
        figures[f"others{i}"] = (~fits).sum()
    found = table.agg(**figures).to_pyarrow().to_pylist()[0] if texts else {}
    return any(found[f"commas{i}"] and not found[f"others{i}"] for i in range(len(texts)))


def _formats(table: ibis.Table, name: str, some: Sequence[str]) -> tuple[str, ...]:
    """Return the formats of a column's times, guessed from `some` values; none for ISO 8601 or if it has no times."""
    likely = [form for form in _FORMATS if any(_fits(value, form) for value in {*some[:1], *some[-1:]})]
    if not likely:
        return ()
    fitting = {form: values.parsed(table[name], form).count() for form in likely}
    found = table.agg(iso=values.time(table[name]).count(), **fitting).to_pyarrow().to_pylist()[0]
    most = max(found[form] for form in likely)
    return tuple(form for form in likely if found[form] == most > found["iso"])


def _fits(value: str, form: str) -> bool:
    try:
        alike = _NO_MARK.sub("", value).startswith(_NO_MARK.sub("", form))  # `strptime` compiles each format again
        return alike and 1990 <= datetime.strptime(value, form).year <= 2100
    except ValueError:
        return False


def _facts(table: ibis.Table, decimal: str, formats: Mapping[str, tuple[str, ...]]) -> tuple[dict[str, Facts], int]:
    """Return the facts of each column of a table, and its number of rows."""
    names = [name for name in table.columns if name != files.ROW]
    figures: dict[str, ibis.Value] = {"rows": table.count()}
    for i, name in enumerate(names):
        value, present, forms = table[name], values.has_value(table[name]), formats.get(name, ())
        is_text = value.type().is_string()
        time = values.parsed(value, forms[0]) if forms else values.time(value)
        if is_text and decimal == ",":
            value = values.with_point(value)
        # For a type without numbers or times, these would be constants; ifelse turns them into columns.
        number = ibis.ifelse(present, values.number(value), ibis.null("float64"))
        flag = ibis.ifelse(present, values.flag(value), ibis.null("float64"))
        figures |= {
            f"present{i}": present.sum(),
            f"known{i}": values.has_value(value, numeric=True).sum(),
            f"numbers{i}": number.notnull().sum(),
            f"times{i}": ibis.ifelse(present, time.notnull(), False).sum(),
            f"flags{i}": flag.isin([0, 1]).fill_null(False).sum(),
            f"whole{i}": (value.strip().re_search(r"^[+-]?\d+$") if is_text else number % 1 == 0).sum(),
            f"distinct{i}": values.text(value).nunique(),
            f"low{i}": flag.min(),
            f"high{i}": flag.max(),
        }
    found = table.agg(**figures).to_pyarrow().to_pylist()[0]
    counts = ("present", "numbers", "times", "flags", "whole", "distinct")
    facts = {}
    for i, name in enumerate(names):
        own = {what: int(found[f"{what}{i}"] or 0) for what in counts}
        if (known := int(found[f"known{i}"] or 0)) == max(own["numbers"], own["flags"]) > 0:
            own["present"] = known  # NA and the like are values of text columns, but missing in numeric ones
        low, high = (float("nan") if found[end] is None else float(found[end]) for end in (f"low{i}", f"high{i}"))
        facts[name] = Facts(name, **own, low=low, high=high, formats=formats.get(name, ()))
    return facts, int(found["rows"])
