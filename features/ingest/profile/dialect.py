"""Detects the dialect of a text file: separator, decimal mark and formats of times."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import islice, product
from pathlib import Path
from typing import Any

import ibis

from features.ingest.adapters import files, values
from features.ingest.adapters.values import parsed

_LINES = 50
_ROWS = 10_000
_SAMPLE = 300  # values of a column that are looked at
_MOST_OF = 0.9  # of them have a format that is taken for the column's
_COMMA = r"^[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?$"
_THOUSANDS = r"^[+-]?\d{1,3}(,\d{3})+$"
_POINT = r"^[+-]?\d*\.\d+$"

_DAYS = (
    *("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d"),
    *("%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d %b %Y", "%d-%b-%Y", "%d/%b/%Y", "%b %d, %Y", "%b %d %Y"),
    *("%d %B %Y", "%B %d, %Y", "%B %d %Y"),
)
_CLOCKS = ("", "%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%H%M%S", "%I:%M %p", "%I:%M:%S %p", "%H:%M:%S %z")
_FORMATS = tuple(
    day + (mark + clock if clock else "")
    for clock, day, mark in product(_CLOCKS, _DAYS, (" ", ", ", "T", ":"))
    if clock or mark == " "
)


@dataclass(frozen=True)
class Dialect:
    """How a file is written."""

    separator: str | None = None  # None: as the file's name says
    decimal: str = "."
    formats: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # that fit all times of a column, if not ISO
    unsure: tuple[str, ...] = ()  # columns whose commas may as well group thousands

    @cached_property
    def file(self) -> dict[str, Any]:
        """The `file` of a description; empty if there is nothing to say."""
        said = {"separator": self.separator} if self.separator else {}
        return said | ({"decimal": self.decimal} if self.decimal != "." else {})

    @property
    def question(self) -> str:
        """What a person must say of the decimal mark; empty if it is known."""
        if not self.unsure:
            return ""
        return f"commas of {', '.join(self.unsure)} have three digits after each: decimal marks, or thousands?"


def separator_of(path: Path) -> str | None:
    """What separates the columns of a text file, if that is not what its name says."""
    usual = files.separator_of(path)
    if not usual:
        return None
    with files.readable(path):
        lines = list(islice(files.first_lines(path), _LINES))
    best = max((usual, *files.SEPARATORS), key=lambda mark: _columns(lines, mark))
    return None if _columns(lines, best) == _columns(lines, usual) else best


def dialect_of(table: ibis.Table, separator: str | None) -> Dialect:
    """Detect how the values of a table of text are written."""
    texts = [name for name in table.columns if table[name].type().is_string()]
    if not texts:
        return Dialect(separator)
    figures: dict[str, ibis.Value] = {}
    for i, name in enumerate(texts):
        value = table[name].strip()
        for what, pattern in (("comma", _COMMA), ("thousands", _THOUSANDS), ("point", _POINT)):
            figures[f"{what}{i}"] = value.re_search(pattern).fill_null(False).sum()
        figures[f"commas{i}"] = value.contains(",").fill_null(False).sum()
        figures[f"present{i}"] = values.has_value(table[name], numeric=True).sum()
    found = {name: int(count or 0) for name, count in table.agg(**figures).to_pyarrow().to_pylist()[0].items()}
    numbers = [i for i in range(len(texts)) if found[f"commas{i}"] and found[f"comma{i}"] == found[f"present{i}"]]
    points = any(found[f"point{i}"] == found[f"present{i}"] > 0 for i in range(len(texts)))
    decimal = "," if numbers and not points else "."
    unsure = [i for i in numbers if found[f"thousands{i}"] == found[f"commas{i}"]] if separator != ";" else []
    if decimal == "," and len(unsure) < len(numbers):  # another column shows that the comma is the decimal mark
        unsure = []
    some = table.select(*texts).limit(_ROWS).to_pyarrow()
    formats = {name: fitting for name in texts if (fitting := _formats(table, name, some[name].unique().to_pylist()))}
    return Dialect(separator, decimal, formats, tuple(texts[i] for i in unsure))


def _columns(lines: Sequence[str], mark: str) -> int:
    """How many columns the lines have with a separator; 0 if they differ."""
    try:
        counts = {len(row) for row in csv.reader(lines, delimiter=mark) if row}
    except csv.Error:
        return 0
    return counts.pop() if len(counts) == 1 else 0


def _formats(table: ibis.Table, name: str, some: list[str | None]) -> tuple[str, ...]:
    """The formats of a column's times, of which it has some values; none if it is ISO 8601, numbers, or no times."""
    sample = [text.strip() for text in some if text and text.strip()][:_SAMPLE]
    if not sample or not re.search(r"\d", sample[0]):
        return ()
    fitting = [form for form in _FORMATS if _fits(sample[0], form) or _fits(sample[-1], form)]
    fitting = [form for form in fitting if sum(_fits(text, form) for text in sample) >= _MOST_OF * len(sample)]
    if not fitting:
        return ()
    value = table[name]
    iso = values.time(value).notnull().sum()
    counts = table.agg(iso=iso, **{f"n{i}": parsed(value, form).notnull().sum() for i, form in enumerate(fitting)})
    found = counts.to_pyarrow().to_pylist()[0]
    most = max(int(found[f"n{i}"] or 0) for i in range(len(fitting)))
    if int(found["iso"] or 0) >= most:
        return ()
    return tuple(form for i, form in enumerate(fitting) if found[f"n{i}"] == most)


def _fits(text: str, form: str) -> bool:
    try:
        return 1990 <= datetime.strptime(text, form).year <= 2100
    except ValueError:
        return False
