"""Sources of a log: where its files lie, and the names, units and zones of its columns."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from mtorl.log.times import zone
from mtorl.runtime.validation import StrictModel, Text, short

TimeUnit = Literal["s", "ms", "us"]

TOUCHPOINT_ID = "touchpoint_id"
"""Column of a raw log by which conversions find their touchpoint; the canonical log has none."""

_EXAMPLE = datetime(2024, 10, 31, 13, 45)
"""A time of which no two parts are alike, so that a format that lacks or swaps one is found."""


class FileFormat(StrictModel):
    """Format of a CSV file, as far as it is unusual."""

    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """Between the columns; by default a comma, and a tab in a .tsv file."""
    decimal: Literal[".", ","] = "."
    """Before the decimals of a number. With ",", points may group its thousands: 1.234,56."""


def is_remote(place: str | Path) -> bool:
    """Whether a file or folder is named by an address of an object store, not by a path."""
    return "://" in str(place)


def _column_alone(source: Any) -> Any:
    return {"column": source} if isinstance(source, str) else source


def _text_or_number(value: Any) -> Any:
    """Reports one fault instead of one for each type of the union."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not (number or (isinstance(value, str) and value.strip())):
        raise PydanticCustomError("value", "expected text or a finite number, got {given}", {"given": short(value)})
    return value


class Source(StrictModel):
    """Source of a column of the log, if the file has it under another name or not at all."""

    column: Text | None = None
    """Its name in the file."""
    value: Annotated[str | float, BeforeValidator(_text_or_number)] | None = None
    """The same for every row, of a file that has no such column."""
    unit: TimeUnit | None = None
    """Of a time that is a number: seconds, milliseconds or microseconds since 1970. Else it is ISO 8601 text."""
    timezone: Text | None = None
    """IANA zone of times whose text has none, such as Europe/Berlin. Else they are in UTC."""
    format: Text | None = None
    """Of a time that is text but not ISO 8601, as strptime reads it: "%d.%m.%Y %H:%M:%S"."""
    per: float = Field(1.0, gt=0)
    """The file's number is so many times too large: 1000 for a price per mille, 100 for cents, 1000000 for micros."""

    @field_validator("timezone")
    @classmethod
    def _zone_is_known(cls, timezone: str | None) -> str | None:
        if timezone is not None:
            zone(timezone)
        return timezone

    @field_validator("format")
    @classmethod
    def _format_names_a_day(cls, form: str | None) -> str | None:
        if form is None:
            return None
        try:
            found = datetime.strptime(_EXAMPLE.astimezone().strftime(form), form)
        except ValueError as error:
            raise ValueError(f"{form!r} is no format of a time: {error}") from None
        if found.date() != _EXAMPLE.date():
            raise ValueError(f"{form!r} lacks the day, the month or the year; write %d.%m.%Y %H:%M, for instance")
        return form

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        if (self.column is None) == (self.value is None):
            raise ValueError("give either column, its name in the file, or value, the same for every row")
        return self

    def check(self, name: str, number: bool, time: bool) -> None:
        """Check that the source can fill the column of this name, of numbers or of times; raises ValueError."""
        for field in ("unit", "timezone", "format"):
            if getattr(self, field) and not time:
                raise ValueError(f"columns.{name}, {field}: is for timestamp and other times")
        if self.unit and self.format:
            raise ValueError(f"columns.{name}: seconds since 1970 have no format; leave out unit or format")
        if self.unit and self.timezone:
            raise ValueError(f"columns.{name}: seconds since 1970 have no zone; leave out unit or timezone")
        if self.per != 1.0 and not number:
            raise ValueError(f"columns.{name}, per: is for columns of numbers")
        if self.value is not None and (time or name in ("user_id", "channel", TOUCHPOINT_ID, "event_id")):
            raise ValueError(f"columns.{name}, value: differs between rows, so it must be a column of the file")
        if self.value is not None and isinstance(self.value, str) == number:
            kind = "a number" if number else "text"
            raise ValueError(f"columns.{name}, value: expected {kind}, got {self.value!r}")


Sources = dict[str, Annotated[Source, BeforeValidator(_column_alone)]]


class Conversions(StrictModel):
    """A second file, with outcomes that come later: each row is one, of the newest touchpoint before it.

    A row finds its touchpoint by the touchpoint's id or, where it has none, by its user.
    """

    source: Text
    """File or folder, relative to the folder of this description, or an address: s3://..., gs://..., abfss://..."""
    file: FileFormat = FileFormat()
    """How the file is written."""
    columns: Sources
    """What the file calls touchpoint_id or user_id, timestamp, event_id (may be left out: then a row that is there
    twice counts once), and the outcomes that it has, such as {conversion: {value: 1}, revenue: amount}."""
    attribution_days: float | None = Field(None, gt=0)
    """A touchpoint longer before a conversion gets no part of it; by default 30 by user, and no limit by id."""

    @model_validator(mode="after")
    def _row_finds_its_touchpoint(self) -> Conversions:
        if (TOUCHPOINT_ID in self.columns) == ("user_id" in self.columns):
            raise ValueError("columns: give either touchpoint_id or user_id, by which a row finds its touchpoint")
        if "timestamp" not in self.columns:
            raise ValueError("columns: missing 'timestamp', when the outcome became known")
        if not self.outcomes:
            raise ValueError("columns: name at least one outcome, such as conversion: {value: 1} or revenue: amount")
        for name, source in self.columns.items():
            source.check(name, number=name in self.outcomes, time=name == "timestamp")
        return self

    @property
    def key(self) -> str:
        """The column by which a row finds its touchpoint: touchpoint_id or user_id."""
        return TOUCHPOINT_ID if TOUCHPOINT_ID in self.columns else "user_id"

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The outcomes in the file."""
        return tuple(name for name in self.columns if name not in (TOUCHPOINT_ID, "user_id", "timestamp", "event_id"))

    @property
    def days(self) -> float | None:
        """Most days between a touchpoint and its conversion; None: no limit."""
        return 30.0 if self.attribution_days is None and self.key == "user_id" else self.attribution_days
