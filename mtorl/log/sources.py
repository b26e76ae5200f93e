"""Describes the raw files of a log: their paths and format, and the name, unit and time zone of each column."""

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
"""Column of a raw log with ids by which a second file refers to touchpoints. The canonical log does not have this
column."""

_EXAMPLE = datetime(2024, 10, 31, 13, 45)
"""A time whose year, month, day, hour and minute all differ, so that a format that omits or swaps parts of the date is
detected."""


class FileFormat(StrictModel):
    """The format of a CSV file, if it differs from the default."""

    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """Separator between columns; by default a comma, or a tab in a .tsv file."""
    decimal: Literal[".", ","] = "."
    """Decimal mark. With ",", numbers may have points between thousands: 1.234,56."""


def is_remote(place: str | Path) -> bool:
    """Return whether a place is an address such as s3://... instead of a path."""
    return "://" in str(place)


def _column_alone(source: Any) -> Any:
    return {"column": source} if isinstance(source, str) else source


def _text_or_number(value: Any) -> Any:
    """Check a value of text or number here, because pydantic would report one fault for each type."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not (number or (isinstance(value, str) and value.strip())):
        raise PydanticCustomError("value", "expected text or a finite number, got {given}", {"given": short(value)})
    return value


class Source(StrictModel):
    """Where the values of a canonical column come from, if the file has another name or format for them."""

    column: Text | None = None
    """Name of the column in the file."""
    value: Annotated[str | float, BeforeValidator(_text_or_number)] | None = None
    """The value for all rows, if the file does not have the column."""
    unit: TimeUnit | None = None
    """Unit of times that are numbers: s, ms or us since 1970. By default, times are ISO 8601 text."""
    timezone: Text | None = None
    """Time zone of times whose text does not name one, by its IANA name such as Europe/Berlin; by default UTC."""
    format: Text | None = None
    """Format of times that are text but not ISO 8601, in the syntax of strptime: "%d.%m.%Y %H:%M:%S"."""
    per: float = Field(1.0, gt=0)
    """The file's numbers are divided by this: 1000 for prices per mille, 100 for cents, 1000000 for micros."""

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
            raise ValueError(f"{form!r} is not a valid time format: {error}") from None
        if found.date() != _EXAMPLE.date():
            raise ValueError(f"{form!r} lacks the day, the month or the year; an example is %d.%m.%Y %H:%M")
        return form

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        if (self.column is None) == (self.value is None):
            raise ValueError("give either `column`, its name in the file, or `value`, a constant for all rows")
        return self

    def check(self, name: str, number: bool, time: bool) -> None:
        """Check that the settings of this source fit a column of the log.

        Raises:
            ValueError: a setting does not fit the column.
        """
        for field in ("unit", "timezone", "format"):
            if getattr(self, field) and not time:
                raise ValueError(f"columns.{name}, {field}: is only for timestamp and other times")
        if self.unit and self.format:
            raise ValueError(f"columns.{name}: seconds since 1970 have no format; leave out unit or format")
        if self.unit and self.timezone:
            raise ValueError(f"columns.{name}: seconds since 1970 have no zone; leave out unit or timezone")
        if self.per != 1.0 and not number:
            raise ValueError(f"columns.{name}, per: is only for columns of numbers")
        if self.value is not None and (time or name in ("user_id", "channel", TOUCHPOINT_ID, "event_id")):
            raise ValueError(f"columns.{name}, value: must differ between rows; name a column of the file instead")
        if self.value is not None and isinstance(self.value, str) == number:
            kind = "a number" if number else "text"
            raise ValueError(f"columns.{name}, value: expected {kind}, got {self.value!r}")


Sources = dict[str, Annotated[Source, BeforeValidator(_column_alone)]]


class Conversions(StrictModel):
    """A second file, with outcomes that arrived after their touchpoint was logged.

    A row belongs to the touchpoint with its touchpoint id. If the file has no such ids, it belongs to the user's last
    touchpoint before it.
    """

    source: Text
    """The file or folder with the outcomes: a path relative to the folder of this description, or an address such as
    s3://..., gs://... or abfss://..."""
    file: FileFormat = FileFormat()
    """Format of the file: separator and decimal mark."""
    columns: Sources
    """Columns of the file: touchpoint_id or user_id, timestamp, optionally event_id, and at least one outcome, for
    example {conversion: {value: 1}, revenue: amount}. Without event_id, identical rows count as one."""
    attribution_days: float | None = Field(None, gt=0)
    """Largest number of days from a touchpoint to its outcome. By default, 30 if rows are matched by user, and
    unlimited if they are matched by touchpoint id."""

    @model_validator(mode="after")
    def _row_finds_its_touchpoint(self) -> Conversions:
        if (TOUCHPOINT_ID in self.columns) == ("user_id" in self.columns):
            raise ValueError("columns: give either touchpoint_id or user_id, by which a row finds its touchpoint")
        if "timestamp" not in self.columns:
            raise ValueError("columns: missing 'timestamp', the time when the outcome became known")
        if not self.outcomes:
            raise ValueError("columns: name at least one outcome, such as conversion: {value: 1} or revenue: amount")
        for name, source in self.columns.items():
            source.check(name, number=name in self.outcomes, time=name == "timestamp")
        return self

    @property
    def key(self) -> str:
        """Return the column by which a row is assigned to a touchpoint: touchpoint_id or user_id."""
        return TOUCHPOINT_ID if TOUCHPOINT_ID in self.columns else "user_id"

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Return the names of the outcomes in the file."""
        return tuple(name for name in self.columns if name not in (TOUCHPOINT_ID, "user_id", "timestamp", "event_id"))

    @property
    def days(self) -> float | None:
        """Return the maximum number of days from a touchpoint to its conversion, or None."""
        return 30.0 if self.attribution_days is None and self.key == "user_id" else self.attribution_days
