"""Counts what the columns of a file hold: numbers, times, whole and distinct values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis

from features.engine import Engine
from features.ingest.adapters import files, values
from features.ingest.adapters.values import parsed, with_point
from features.ingest.profile.dialect import Dialect, dialect_of, separator_of
from mtorl.log.sources import TimeUnit
from mtorl.log.touchpoints import LogError

_PER = {"micros": 1_000_000, "micro": 1_000_000, "cpm": 1000, "ecpm": 1000, "cents": 100, "cent": 100}
FEW = 20  # values: a column of so few whole numbers is taken for codes


@dataclass(frozen=True)
class Facts:
    """What the values of one column are."""

    name: str
    present: int  # rows with a value
    numbers: int  # of them, those that are numbers
    times: int
    binary: int  # 0 or 1, true or false, yes or no
    whole: int  # written without decimals
    distinct: int
    low: float
    high: float
    days: int = 0  # of the times, those without a time of day
    formats: tuple[str, ...] = ()  # of its times, where they are not ISO 8601; the likeliest first

    @property
    def numeric(self) -> bool:
        """Whether every value is a number."""
        return self.present > 0 and self.numbers == self.present

    @property
    def flag(self) -> bool:
        """Whether every value says that something happened, or that it did not."""
        return self.present > 0 and self.binary == self.present

    @property
    def outcome(self) -> bool:
        """Whether it can be an outcome that a gain may weigh."""
        return (self.numeric or self.flag) and self.unit is None

    @property
    def kind(self) -> str:
        """As a column of a description; few whole numbers are codes."""
        codes = self.whole == self.present and self.distinct <= FEW
        return "numeric" if self.numeric and not codes else "categorical"

    @property
    def time(self) -> bool:
        """Whether every value is a time, or can be one as a number."""
        return self.present > 0 and (self.times == self.present or self.unit is not None)

    @property
    def unit(self) -> TimeUnit | None:
        """Of numbers that are times of 1990 to 2100."""
        scales: tuple[tuple[TimeUnit, float], ...] = (("s", 1.0), ("ms", 1e3), ("us", 1e6))
        inside = (unit for unit, scale in scales if 6.3e8 * scale <= self.low and self.high <= 4.1e9 * scale)
        return next(inside, None) if self.numeric else None


@dataclass(frozen=True)
class Look:
    """A file of which nothing is known beforehand: how it is written, and what its columns hold."""

    table: ibis.Table
    dialect: Dialect
    facts: dict[str, Facts]
    rows: int

    @classmethod
    def into(cls, engine: Engine, path: Path, scratch: Path, most_rows: int | None = None) -> Look:
        """Read a file or a folder, and count; at most so many rows."""
        with files.readable(path):
            separator = separator_of(files.parts(path)[0])
            table = files.read(engine, path, scratch, separator).limit(most_rows)
            dialect = dialect_of(table, separator)
            facts, rows = _facts_of(table, dialect)
        if not rows:
            raise LogError(f"{path}: the file has columns but no rows")
        return cls(table, dialect, facts, rows)


def _facts_of(table: ibis.Table, dialect: Dialect) -> tuple[dict[str, Facts], int]:
    """What each column of a table holds, and its number of rows."""
    names = [name for name in table.columns if name != files.ROW]
    figures: dict[str, ibis.Value] = {"rows": table.count()}
    for i, name in enumerate(names):
        value, present = table[name], values.has_value(table[name])
        is_text, formats = value.type().is_string(), dialect.formats.get(name, ())
        time = parsed(value, formats[0]) if formats else values.time(value)
        if is_text and dialect.decimal == ",":
            value = with_point(value)
        # Of a type that has no numbers or no times, these would be constants instead of columns.
        number = ibis.ifelse(present, values.number(value), ibis.null("float64"))
        told = ibis.ifelse(present, values.flag(value), ibis.null("float64"))
        whole = value.strip().re_search(r"^[+-]?\d+$") if is_text else number % 1 == 0
        is_time = ibis.ifelse(present, time.notnull(), False)
        figures |= {
            f"present{i}": present.sum(),
            f"absent{i}": (present & ~values.has_value(value, numeric=True)).sum(),
            f"numbers{i}": number.notnull().sum(),
            f"times{i}": is_time.sum(),
            f"days{i}": (is_time & (time == time.truncate("D"))).fill_null(False).sum(),
            f"binary{i}": told.isin([0, 1]).fill_null(False).sum(),
            f"whole{i}": whole.fill_null(False).sum(),
            f"distinct{i}": values.text(value).nunique(),
            f"low{i}": told.min(),
            f"high{i}": told.max(),
        }
    found = table.agg(**figures).to_pyarrow().to_pylist()[0]
    counts = ("present", "numbers", "times", "days", "binary", "whole", "distinct")
    facts = {}
    for i, name in enumerate(names):
        figures_of = {what: int(found[f"{what}{i}"] or 0) for what in counts}
        absent = int(found[f"absent{i}"] or 0)  # NA and the like: a value of text, and none of a number
        if figures_of["present"] - absent == max(figures_of["numbers"], figures_of["binary"]) > 0:
            figures_of["present"] -= absent
        low, high = (float("nan") if found[end] is None else float(found[end]) for end in (f"low{i}", f"high{i}"))
        facts[name] = Facts(name, **figures_of, low=low, high=high, formats=dialect.formats.get(name, ()))
    return facts, int(found["rows"])


def words(name: str) -> str:
    """Words of a column's name: `cost_micros` of "Cost (micros)"."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def rank(name: str, ranked: Sequence[str]) -> int | None:
    """How well the name of a column fits some words; less is better, None is not at all."""
    own = words(name)
    return next((place for place, word in enumerate(ranked) if word == own or word in own.split("_")), None)


def source_of_time(fact: Facts) -> Any:
    """A column of times as a description names it: with its unit or format, if it needs one."""
    if fact.unit and fact.times < fact.present:
        return {"column": fact.name, "unit": fact.unit}
    return {"column": fact.name, "format": fact.formats[0]} if fact.formats else fact.name


def source_of_amount(fact: Facts) -> Any:
    """A column of money as a description names it; its name may say that it is in millionths, cents or per mille."""
    own = words(fact.name).split("_")
    per = next((per for word, per in _PER.items() if word in own), 1)
    return {"column": fact.name, "per": per} if per != 1 else fact.name


def day_or_month(fact: Facts) -> str:
    """The question which number of a date is the day, if no day above 12 tells; empty if that is known."""
    if len(fact.formats) < 2:
        return ""
    return f"times of {fact.name!r} fit {' and '.join(fact.formats)}, since no day above 12 tells; the first is taken"
