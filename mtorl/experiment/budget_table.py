"""Reads the budgets of many campaigns from a CSV or Parquet file.

    campaign,channel,amount,period,timezone
    spring,*,200,day,Europe/Berlin

An active experiment refers to its table by name and digest, as in `budgets.csv#3f2a9c1b04d5e6f7`, so that a router
never uses another version of the table.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from mtorl.experiment import messages
from mtorl.experiment.budget import Budget
from mtorl.runtime.files import remove, replacing
from mtorl.runtime.message import prefixed
from mtorl.runtime.validation import first_fault, short

MOST_ROWS = 100_000
UNREAD = Path("-")
"""Pass this instead of the folder of a budget table if the budgets are not needed: the table is then not read."""
_REQUIRED = ("campaign", "channel", "amount")
_PACING = ("price", "traffic", "start", "end", "opportunities")
COLUMNS = (*_REQUIRED, "period", "timezone", "pacing", *_PACING)
# The dot hides these copies from a glob for experiment files.
_KEPT = ".budgets-"


class BudgetTable:
    """A table of budgets in memory. Two tables are equal if their files have the same content.

    Attributes:
        name: Path of the table's file, as written in the experiment file.
        digest: First 16 hexadecimal digits of the content's SHA-256.
    """

    def __init__(self, name: str, content: bytes) -> None:
        self.name = name
        self.content = content
        self.digest = hashlib.sha256(content).hexdigest()[:16]
        self.budgets = _budgets(Path(name).name, content, self.digest)

    @classmethod
    def read(cls, folder: Path, reference: str) -> BudgetTable:
        """Read a budget table from a file in `folder`.

        If the reference contains a digest, the file must have this digest.

        Raises:
            ValueError: the file can't be read, has another digest, or has an invalid cell.
        """
        name, _, digest = reference.partition("#")
        file = folder / name
        try:
            status = file.stat()
            table = _read(name, file, (status.st_mtime_ns, status.st_ino, status.st_size))
        except OSError as error:
            raise ValueError(prefixed(file, messages.TABLE_UNREADABLE(fault=error.strerror or error))) from None
        if digest not in ("", table.digest):
            raise ValueError(prefixed(file, messages.TABLE_CHANGED(found=table.digest, wanted=digest)))
        return table

    @classmethod
    def unread(cls, reference: str) -> BudgetTable:
        """Create a table without budgets from its name and digest, without reading the file."""
        made = cls.__new__(cls)
        made.name, _, made.digest = reference.partition("#")
        made.content, made.budgets = b"", ()
        return made

    def kept_in(self, folder: Path) -> BudgetTable:
        """Copy the table's file into `folder`, and return a table that refers to the copy.

        The copy's name contains the digest, so equal tables share one copy.
        """
        name = f"{_KEPT}{self.digest}{Path(self.name).suffix}"
        if not (folder / name).exists():
            with replacing(folder / name, durable=True) as unfinished:
                unfinished.write_bytes(self.content)
        made = BudgetTable.__new__(BudgetTable)
        made.__dict__.update(self.__dict__, name=name)
        return made

    def __str__(self) -> str:
        return f"{self.name}#{self.digest}"

    def __repr__(self) -> str:
        return f"BudgetTable({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BudgetTable) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(_named, serialization=core_schema.to_string_ser_schema())

    @classmethod
    def __get_pydantic_json_schema__(cls, source: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string"}


def forget_tables(folder: Path, used: Sequence[BudgetTable]) -> None:
    """Delete the copies of budget tables that are not in `used` from `folder`."""
    for file in folder.glob(f"{_KEPT}*"):
        if not any(table.digest in file.name for table in used):
            remove(file)


def _named(value: Any, info: ValidationInfo) -> BudgetTable:
    if isinstance(value, BudgetTable):
        return value
    if not isinstance(value, str) or not value.partition("#")[0].endswith((".csv", ".parquet")):
        raise ValueError(messages.TABLE_NAME(name=short(value)))
    folder = (info.context or {}).get("folder")
    if folder is UNREAD:
        return BudgetTable.unread(value)
    if folder is None:
        raise ValueError(messages.TABLE_FOLDER(name=value))
    return BudgetTable.read(folder, value)


@lru_cache(maxsize=64)
def _read(name: str, file: Path, seen: tuple[int, ...]) -> BudgetTable:
    """Read a budget table, and cache it until the modification time, inode or size of its file (`seen`) changes."""
    return BudgetTable(name, file.read_bytes())


# Budgets by digest of the table; several experiments may use the same table.
_known: dict[str, tuple[Budget, ...]] = {}
_MOST_KNOWN = 64


def _budgets(file: str, content: bytes, digest: str) -> tuple[Budget, ...]:
    if digest not in _known:
        rows = _of_parquet(file, content) if file.endswith(".parquet") else _of_csv(file, content)
        found = tuple(_validated(file, rows))
        while len(_known) >= _MOST_KNOWN:
            _known.pop(next(iter(_known)), None)
        _known[digest] = found
    return _known[digest]


def _of_csv(file: str, content: bytes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        _check_columns(file, list(reader.fieldnames or ()))
        for row in reader:
            if None in row or None in row.values():
                fault = messages.CELLS(needed=len(reader.fieldnames or ()))
                raise ValueError(prefixed(f"{file}, row {reader.line_num}", fault))
            yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise ValueError(prefixed(file, messages.NOT_UTF8(byte=error.start))) from None
    except csv.Error as error:
        raise ValueError(f"{file}, row {reader.line_num}: {error}") from None


def _of_parquet(file: str, content: bytes) -> Iterator[tuple[int, Mapping[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(pyarrow.BufferReader(content))
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(prefixed(file, messages.NOT_PARQUET(fault=str(error)))) from None
    _check_columns(file, table.column_names)
    yield from enumerate(table.to_pylist(), start=1)


def _check_columns(file: str, columns: Sequence[str]) -> None:
    faults = {name: "given twice" if name in COLUMNS else "unknown" for name in columns}
    faults = {name: fault for name, fault in faults.items() if name not in COLUMNS or columns.count(name) > 1}
    faults |= dict.fromkeys((name for name in _REQUIRED if name not in columns), "missing")
    for name, fault in faults.items():
        known, needed = ", ".join(COLUMNS), ", ".join(_REQUIRED)
        raise ValueError(prefixed(file, messages.COLUMNS(column=name, fault=fault, known=known, needed=needed)))


def _validated(file: str, rows: Iterator[tuple[int, Mapping[str, Any]]]) -> Iterator[Budget]:
    """Check the rows of a table, mostly without pydantic, which is slow, and yield a budget for each row."""
    kinds: dict[tuple[Any, ...], Budget] = {}
    places: dict[tuple[str, str, str], int] = {}
    for row, cells in rows:
        if len(places) == MOST_ROWS:
            raise ValueError(prefixed(f"{file}, row {row}", messages.TOO_MANY_ROWS(most=MOST_ROWS)))
        kind = tuple(cells.get(name) for name in COLUMNS[len(_REQUIRED) :])
        try:
            campaign, channel = (_text(name, cells[name]) for name in ("campaign", "channel"))
            amount = _number("amount", cells["amount"])
            if amount < 0:
                raise ValueError(messages.CELL(value=cells["amount"], expected="at least 0", column="amount", hint=""))
            if (like := kinds.get(kind)) is None:
                fields = {"campaign": campaign, "channel": channel, "amount": amount, **_further(cells)}
                like = kinds[kind] = Budget.model_validate(fields)
        except ValidationError as error:
            raise ValueError(prefixed(f"{file}, row {row}", first_fault(error))) from None
        except ValueError as error:
            raise ValueError(prefixed(f"{file}, row {row}", error)) from None
        scope = campaign, channel, like.period
        if (first := places.setdefault(scope, row)) != row:
            twice = {"campaign": campaign, "channel": channel, "period": like.period, "other": f"row {first}"}
            raise ValueError(prefixed(f"{file}, row {row}", messages.BUDGET_TWICE(**twice)))
        yield Budget.model_construct(
            campaign=campaign,
            channel=channel,
            amount=amount,
            period=like.period,
            timezone=like.timezone,
            pacing=like.pacing,
        )
    if not places:
        raise ValueError(prefixed(file, messages.NO_ROWS(columns=",".join(_REQUIRED))))


def _further(cells: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in cells.items() if value is not None and value != ""}
    found: dict[str, Any] = {name: str(given[name]) for name in ("period", "timezone") if name in given}
    pacing: dict[str, Any] = {name: str(given[name]) for name in ("start", "end") if name in given}
    if "price" in given:
        pacing["price"] = _number("price", given["price"])
    if "opportunities" in given:
        number = _number("opportunities", given["opportunities"])
        pacing["opportunities"] = int(number) if number.is_integer() else number
    if "traffic" in given:
        pacing["traffic"] = tuple(_number("traffic", part) for part in str(given["traffic"]).split())
    if given.get("pacing", "none") != "none":
        value = short(given["pacing"])
        raise ValueError(messages.CELL(value=value, expected="none or empty", column="pacing", hint=""))
    if "pacing" in given and pacing:
        raise ValueError(messages.PACING_NONE(column=next(iter(pacing))))
    if "pacing" in given:
        return {**found, "pacing": None}
    return {**found, "pacing": pacing} if pacing else found


def _text(column: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(messages.CELL(value=short(value), expected="text", column=column, hint=""))
    return value


def _number(column: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        hint = ". Write decimals with a point: 12.50" if isinstance(value, str) and "," in value else ""
        raise ValueError(messages.CELL(value=short(value), expected="a number", column=column, hint=hint)) from None
    if not isfinite(number):
        raise ValueError(messages.CELL(value=short(value), expected="a finite number", column=column, hint=""))
    return number
