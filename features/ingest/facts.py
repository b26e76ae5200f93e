"""What the values of a file's columns are: how many numbers, times, whole and different ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ibis

from features.ingest.adapters import base as values
from mtorl.log.sources import TimeUnit

FEW = 20  # values: a column of so few whole numbers is taken for codes


@dataclass(frozen=True)
class Facts:
    """What the values of one column are."""

    name: str
    present: int  # rows with a value
    numbers: int  # of them, those that are numbers
    times: int
    binary: int  # 0 or 1, true or false, yes or no
    whole: int
    distinct: int
    low: float
    high: float

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
        return self.numeric or self.flag

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


def facts_of(table: ibis.Table, names: Sequence[str]) -> tuple[dict[str, Facts], int]:
    """What each of some columns of a table holds, and its number of rows."""
    figures: dict[str, ibis.Value] = {"rows": table.count()}
    for i, name in enumerate(names):
        value, present = table[name], values.has_value(table[name])
        # Of a type that has no numbers or no times, these would be constants instead of columns.
        number = ibis.ifelse(present, values.number(value), ibis.null("float64"))
        told = ibis.ifelse(present, values.flag(value), ibis.null("float64"))
        is_time = ibis.ifelse(present, values.time(value).notnull(), False)
        figures |= {
            f"present{i}": present.sum(),
            f"numbers{i}": number.notnull().sum(),
            f"times{i}": is_time.sum(),
            f"binary{i}": told.isin([0, 1]).fill_null(False).sum(),
            f"whole{i}": (number % 1 == 0).fill_null(False).sum(),
            f"distinct{i}": values.text(value).nunique(),
            f"low{i}": told.min(),
            f"high{i}": told.max(),
        }
    found = table.agg(**figures).to_pyarrow().to_pylist()[0]
    counts = ("present", "numbers", "times", "binary", "whole", "distinct")
    facts = {
        name: Facts(
            name,
            *(int(found[f"{what}{i}"] or 0) for what in counts),
            *(float("nan") if found[f"{end}{i}"] is None else float(found[f"{end}{i}"]) for end in ("low", "high")),
        )
        for i, name in enumerate(names)
    }
    return facts, int(found["rows"])


def rank(name: str, words: Sequence[str]) -> int | None:
    """How well the name of a column fits some words; less is better, None is not at all."""
    own = name.lower().replace("-", "_")
    return next((place for place, word in enumerate(words) if word == own or word in own.split("_")), None)
