"""Examines a file without a description: its separator and decimal mark, and the values of its columns.

Values are parsed by the functions of the ingestion, so a column that is numeric here is also numeric there.
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

# A column of whole numbers with at most this many distinct values contains codes, not amounts.
FEW = 20

_SAMPLE = 10_000
_COMMA = r"^[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?$"

_DAYS = (
    *("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d"),
    *("%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d %b %Y", "%d-%b-%Y", "%d/%b/%Y", "%b %d, %Y", "%b %d %Y"),
    *("%d %B %Y", "%B %d, %Y", "%B %d %Y"),
)
_CLOCKS = ("%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%H%M%S", "%I:%M %p", "%I:%M:%S %p", "%H:%M:%S %z")
# Formats without these characters, such as "--::", are compared first, because parsing is slow.
_NO_MARK = re.compile(r"[\w\s%]+")
_FORMATS = (*_DAYS, *map("".join, product(_DAYS, (" ", ", ", "T", ":"), _CLOCKS)))


@dataclass(frozen=True)
class Facts:
    """Counts that describe the values of one column.

    Attributes:
        flags: Number of values such as 0 and 1, true and false, or yes and no.
        formats: Time formats that fit the values, the likeliest first. Empty if the values are in ISO 8601.
    """

    name: str
    present: int
    numbers: int
    times: int
    flags: int
    whole: int
    distinct: int
    low: float
    high: float
    formats: tuple[str, ...] = ()

    @property
    def numeric(self) -> bool:
        """Whether every value is a number."""
        return self.present > 0 and self.numbers == self.present

    @property
    def flag(self) -> bool:
        """Whether every value means yes or no."""
        return self.present > 0 and self.flags == self.present

    @property
    def outcome(self) -> bool:
        """Whether the column can be an outcome: it contains numbers or flags, but no times."""
        return (self.numeric or self.flag) and self.unit is None

    @property
    def kind(self) -> str:
        """The kind of the column in a description. Whole numbers with few distinct values are categories."""
        return "categorical" if not self.numeric or (self.whole == self.present and self.distinct <= FEW) else "numeric"

    @property
    def time(self) -> bool:
        """Whether every value is a time, or a number that can be read as a time."""
        return self.present > 0 and (self.times == self.present or self.unit is not None)

    @property
    def unit(self) -> TimeUnit | None:
        """The unit, "s", "ms" or "us", in which the numbers are times from 1990 to 2100. None if no unit fits."""
        scales: tuple[tuple[TimeUnit, float], ...] = (("s", 1.0), ("ms", 1e3), ("us", 1e6))
        inside = (unit for unit, scale in scales if 6.3e8 * scale <= self.low and self.high <= 4.1e9 * scale)
        return next(inside, None) if self.numeric else None


@dataclass(frozen=True)
class Profile:
    """The format of a file and the facts about its columns."""

    table: ibis.Table
    rows: int
    file: Mapping[str, str]
    facts: Mapping[str, Facts]

    @classmethod
    def of(cls, engine: Engine, path: Path, scratch: Path, most_rows: int) -> Profile:
        """Read at most `most_rows` rows of a file or a folder, and examine them.

        Raises:
            LogError: The file can't be read or has no rows.
        """
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
    """Return the separator of a text file as DuckDB guesses it, or None if it is usual for the file's extension."""
    if not (usual := files.separator_of(path)):
        return None
    sniffed = engine.connection.raw_sql(f"SELECT Delimiter FROM sniff_csv({sql_text(path)})").fetchall()[0][0]
    return sniffed if sniffed != usual and sniffed in files.SEPARATORS else None


def _has_decimal_commas(table: ibis.Table, texts: list[str]) -> bool:
    """Return True if some column contains only numbers and at least one of them has a decimal comma."""
    figures: dict[str, ibis.Value] = {}
    for i, name in enumerate(texts):
        figures[f"commas{i}"] = table[name].contains(",").sum()
        fits = table[name].strip().re_search(_COMMA) | ~values.has_value(table[name], numeric=True)
        figures[f"others{i}"] = (~fits).sum()
    found = table.agg(**figures).to_pyarrow().to_pylist()[0] if texts else {}
    return any(found[f"commas{i}"] and not found[f"others{i}"] for i in range(len(texts)))


def _formats(table: ibis.Table, name: str, some: Sequence[str]) -> tuple[str, ...]:
    """Return the time formats that fit the most values of a column. Empty if ISO 8601 fits as many values."""
    likely = [form for form in _FORMATS if any(_fits(value, form) for value in {*some[:1], *some[-1:]})]
    if not likely:
        return ()
    fitting = {form: values.parsed(table[name], form).count() for form in likely}
    found = table.agg(iso=values.time(table[name]).count(), **fitting).to_pyarrow().to_pylist()[0]
    most = max(found[form] for form in likely)
    return tuple(form for form in likely if found[form] == most > found["iso"])


def _fits(value: str, form: str) -> bool:
    try:
        # `strptime` is slow, so compare punctuation first
        alike = _NO_MARK.sub("", value).startswith(_NO_MARK.sub("", form))
        return alike and 1990 <= datetime.strptime(value, form).year <= 2100
    except ValueError:
        return False


def _facts(table: ibis.Table, decimal: str, formats: Mapping[str, tuple[str, ...]]) -> tuple[dict[str, Facts], int]:
    names = [name for name in table.columns if name != files.ROW]
    figures: dict[str, ibis.Value] = {"rows": table.count()}
    for i, name in enumerate(names):
        value, present, forms = table[name], values.has_value(table[name]), formats.get(name, ())
        is_text = value.type().is_string()
        time = values.parsed(value, forms[0]) if forms else values.time(value)
        if is_text and decimal == ",":
            value = values.with_point(value)
        # For a type such as a list, `values.number` returns a constant. `ifelse` turns it into a column.
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
            # In an otherwise numeric column, texts such as "NA" are missing values.
            own["present"] = known
        low, high = (float("nan") if found[end] is None else float(found[end]) for end in (f"low{i}", f"high{i}"))
        facts[name] = Facts(name, **own, low=low, high=high, formats=formats.get(name, ()))
    return facts, int(found["rows"])
