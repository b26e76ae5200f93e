"""Converts columns to arrays, from JSON lists on a server and from Arrow tables offline.

Both conversions treat types and nulls alike, so that the model reads the same windows on a server and offline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mtorl.arrays import Bools, Floats, Ints
from mtorl.log.dataset import Column
from mtorl.runtime.errors import InputError
from mtorl.runtime.validation import short


class WindowError(InputError, ValueError):
    """Raised if a window can't be built. `index` is the faulty instance or row, or None."""

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


@dataclass(frozen=True)
class Codes:
    """A categorical column: `codes` has each row's position in `values`, or -1 for null."""

    codes: Ints
    values: tuple[str, ...]


Values = Floats | Codes
"""The values of one column: numbers, in which NaN is null, or category codes."""


AnyValues = TypeVar("AnyValues", bound=Values)


def take(values: AnyValues, index: Ints) -> AnyValues:
    """Return the values of a column at some positions."""
    taken: Any = Codes(values.codes[index], values.values) if isinstance(values, Codes) else values[index]
    return cast(AnyValues, taken)


def take_each(columns: Mapping[str, AnyValues], index: Ints) -> dict[str, AnyValues]:
    """Return the values of several columns at some positions."""
    return {name: take(values, index) for name, values in columns.items()}


# ---- JSON


def as_list(values: Any) -> list[Any]:
    """Convert a list, array or null from a feature store to a Python list."""
    if values is None:
        return []
    return cast(list[Any], values.tolist()) if isinstance(values, np.ndarray) else list(values)


def as_json(values: Sequence[Any]) -> list[Any]:
    """Convert values to types that JSON has. NaN and "" become None."""
    plain = [v.item() if isinstance(v, np.generic) else v for v in values]
    return [None if v == "" or (isinstance(v, float) and math.isnan(v)) else v for v in plain]


def json_list(values: Any, length: int, where: str, index: int) -> list[Any]:
    """Return `values` if it is a list with `length` items; otherwise raise WindowError."""
    if not isinstance(values, list) or len(values) != length:
        got = len(values) if isinstance(values, list) else short(values)
        raise WindowError(f"instance {index}: {where} needs a list of {length} values, got {got}", index)
    return values


def json_numbers(values: list[Any], where: str, row_N: Ints, null: bool = True) -> Floats:
    """Convert the numbers of several instances to an array. A null becomes NaN.

    Args:
        row_N: Position of the instance of each number, for error messages.
        null: Whether a value may be null.

    Raises:
        WindowError: a value is not a number, or `null` is false and a value is not finite.
    """
    # NumPy would convert the text "1" to a number, which the Arrow reader rejects.
    for position, value in enumerate(values):
        if not (isinstance(value, float | int) or (value is None and null)):
            i = int(row_N[position])
            raise WindowError(f"instance {i}: {where} contains {short(value)}, expected numbers", i)
    numbers = np.array(values, dtype=np.float64)  # None becomes NaN
    if not null and not np.isfinite(numbers).all():
        i = int(row_N[np.flatnonzero(~np.isfinite(numbers))[0]])
        raise WindowError(f"instance {i}: {where} contains a number that is not finite", i)
    return numbers


def json_values(column: Column, values: list[Any], where: str, row_N: Ints) -> Values:
    """Convert the values of one column to numbers or codes, for several instances.

    Raises:
        WindowError: a value does not have the column's type.
    """
    if column.kind == "numeric":
        return json_numbers(values, where, row_N)
    code: dict[str | None, int] = {None: -1, "": -1}
    codes = np.empty(len(values), dtype=np.int64)
    for position, value in enumerate(values):
        if value is not None and not isinstance(value, str):
            i = int(row_N[position])
            raise WindowError(f"instance {i}: {where} contains {short(value)}, expected text", i)
        codes[position] = code.setdefault(value, len(code) - 2)
    return Codes(codes, tuple(v for v in code if v))


# ---- Arrow


def flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column of a table as one array instead of several chunks."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def arrow_numbers(values: pa.Array, where: str, null: bool = True) -> Floats:
    """Convert a numeric Arrow column to an array. A null becomes NaN.

    Raises:
        WindowError: the column is not numeric, or `null` is false and a value is null or not finite.
    """
    kind = values.type
    if not (pa.types.is_null(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise WindowError(f"{where}: expected numbers, got {kind}")
    numbers = cast(Floats, values.cast(pa.float64()).to_numpy(zero_copy_only=False))
    if not null and not np.isfinite(numbers).all():
        raise WindowError(f"{where}: {np.count_nonzero(~np.isfinite(numbers))} values are null or not finite")
    return numbers


def arrow_times(values: pa.Array, where: str, null: int | None) -> Ints:
    """Convert an Arrow column of times to microseconds since 1970.

    Args:
        null: Value for a null. None means that a null raises WindowError.
    """
    if not pa.types.is_timestamp(values.type):
        raise WindowError(f"{where}: expected times, got {values.type}")
    if values.null_count and null is None:
        i = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise WindowError(f"row {i}: {where} is null", i)
    times = values.cast(pa.timestamp("us", values.type.tz)).cast(pa.int64())
    filled = times.fill_null(null) if values.null_count else times
    return cast(Ints, filled.to_numpy(zero_copy_only=False))


def arrow_flags(table: pa.Table, name: str) -> Bools:
    """Return a boolean column of a table; false if the table lacks it."""
    if name not in table.column_names:
        return np.zeros(len(table), dtype=np.bool_)
    return cast(Bools, flat(table[name]).fill_null(False).to_numpy(zero_copy_only=False))


def arrow_codes(values: pa.Array, where: str) -> Codes:
    """Convert an Arrow column of text to codes. Empty text counts as null."""
    if pa.types.is_dictionary(values.type):
        # An Arrow dictionary may contain null, or the same text twice.
        inner = arrow_codes(values.dictionary, where)
        return Codes(np.append(inner.codes, -1)[_indices(values)], inner.values)
    if pa.types.is_null(values.type):
        values = values.cast(pa.string())
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise WindowError(f"{where}: expected text, got {values.type}")
    encoded = values.dictionary_encode()
    codes, texts = _indices(encoded), encoded.dictionary.to_pylist()
    if "" in texts:
        codes = np.where(codes == texts.index(""), -1, codes)
    return Codes(codes, tuple(texts))


def _indices(encoded: pa.DictionaryArray) -> Ints:
    return cast(Ints, pc.fill_null(encoded.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False))


def arrow_channels(values: pa.Array, channels: Sequence[str], where: str) -> Ints:
    """Return the position of each row's channel in `channels`.

    Raises:
        WindowError: a channel is unknown or null.
    """
    names = arrow_codes(values, where)
    unknown = [v for v in names.values if v not in channels]
    if unknown or (names.codes < 0).any():
        what = f"unknown channel {unknown[0]!r}" if unknown else "a null channel"
        raise WindowError(f"{where}: {what}; known: {', '.join(channels)}")
    return np.array([channels.index(v) for v in names.values], dtype=np.int64)[names.codes]


def arrow_values(column: Column, values: pa.Array, where: str) -> Values:
    """Convert an Arrow column to numbers or codes, depending on the column's kind."""
    return arrow_numbers(values, where) if column.kind == "numeric" else arrow_codes(values, where)
