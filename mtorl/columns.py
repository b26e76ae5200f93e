"""Reading columns: from JSON lists on a server and from Arrow tables offline, into the same arrays.

Both doors are strict about types and turn null into the same thing, so that `windows.py` can promise equal numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mtorl.dataset import Column


class WindowError(ValueError):
    """A window can't be built from what was given.

    Attributes:
        index: Position of the faulty instance or row, if there is one.
    """

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


@dataclass(frozen=True)
class Codes:
    """A categorical column: `codes` point into `values`; -1 is null."""

    codes: NDArray[np.int64]
    values: tuple[str, ...]


Values = NDArray[np.float64] | Codes
"""A column: numeric (NaN = null) or categorical."""


def take(values: Values, index: NDArray[np.int64]) -> Values:
    """The values at some positions."""
    return Codes(values.codes[index], values.values) if isinstance(values, Codes) else values[index]


def short(value: object) -> str:
    """A value as it can stand in an error message."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


# ---- JSON


def as_list(values: Any) -> list[Any]:
    """A list from whatever a feature store returns for a list; null is empty."""
    if values is None:
        return []
    return cast(list[Any], values.tolist()) if isinstance(values, np.ndarray) else list(values)


def as_json(values: Sequence[Any]) -> list[Any]:
    """Plain values: NaN is not JSON, and NumPy's scalars are not either."""
    plain = [v.item() if isinstance(v, np.generic) else v for v in values]
    return [None if isinstance(v, float) and math.isnan(v) else v for v in plain]


def json_list(values: Any, length: int, where: str, index: int) -> list[Any]:
    """`values`, which must be a list of `length` items."""
    if not isinstance(values, list) or len(values) != length:
        found = len(values) if isinstance(values, list) else short(values)
        raise WindowError(f"instance {index}: {where} needs a list of {length} values, got {found}", index)
    return values


def json_numbers(values: list[Any], where: str, row_N: NDArray[np.int64], null: bool = True) -> NDArray[np.float64]:
    """Numbers of several instances, one after the other; `row_N` says which instance each belongs to."""
    # NumPy would read the text "1" as a number; the offline door would not.
    for position, value in enumerate(values):
        if not (isinstance(value, float | int) or (value is None and null)):
            i = int(row_N[position])
            raise WindowError(f"instance {i}: {where} holds {short(value)}, expected numbers", i)
    found = np.array(values, dtype=np.float64)  # None becomes NaN
    if not null and not np.isfinite(found).all():
        i = int(row_N[np.flatnonzero(~np.isfinite(found))[0]])
        raise WindowError(f"instance {i}: {where} holds a number that is not finite", i)
    return found


def json_values(column: Column, values: list[Any], where: str, row_N: NDArray[np.int64]) -> Values:
    """A context or static column of several instances."""
    if column.kind == "numeric":
        return json_numbers(values, where, row_N)
    code: dict[str | None, int] = {None: -1}
    codes = np.empty(len(values), dtype=np.int64)
    for position, value in enumerate(values):
        if value is not None and not isinstance(value, str):
            i = int(row_N[position])
            raise WindowError(f"instance {i}: {where} holds {short(value)}, expected text", i)
        codes[position] = code.setdefault(value, len(code) - 1)
    return Codes(codes, tuple(v for v in code if v is not None))


# ---- Arrow


def flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A table's column in one piece."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def flat_lists(table: pa.Table, names: Sequence[str]) -> tuple[dict[str, pa.Array], NDArray[np.int64]]:
    """List columns laid end to end, and the length that all lists of a row have. A null list is an empty one."""
    found: dict[str, pa.Array] = {}
    lengths: NDArray[np.int64] | None = None
    for name in names:
        lists = flat(table[name])
        if pa.types.is_null(lists.type):
            lists = lists.cast(pa.list_(pa.null()))
        if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)):
            raise WindowError(f"{name}: expected a column of lists, got {lists.type}")
        length = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        lengths = length if lengths is None else lengths
        unequal = np.flatnonzero(length != lengths)
        if unequal.size:
            i = int(unequal[0])
            raise WindowError(f"row {i}: {name} has {length[i]} touchpoints, {names[0]} {lengths[i]}", i)
        found[name] = lists.flatten()
    assert lengths is not None
    return found, lengths


def arrow_numbers(values: pa.Array, where: str, null: bool = True) -> NDArray[np.float64]:
    """A numeric column."""
    kind = values.type
    if not (pa.types.is_null(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise WindowError(f"{where}: expected numbers, got {kind}")
    found = cast(NDArray[np.float64], values.cast(pa.float64()).to_numpy(zero_copy_only=False))
    if not null and not np.isfinite(found).all():
        raise WindowError(f"{where}: {np.count_nonzero(~np.isfinite(found))} values are null or not finite")
    return found


def arrow_codes(values: pa.Array, where: str) -> Codes:
    """A text column."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_null(values.type):
        values = values.cast(pa.string())
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise WindowError(f"{where}: expected text, got {values.type}")
    encoded = values.dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return Codes(codes, tuple(encoded.dictionary.to_pylist()))


def arrow_channels(values: pa.Array, channels: Sequence[str], where: str) -> NDArray[np.int64]:
    """Positions in `channels`; an unknown or null channel is an error, never a start of the journey."""
    found = arrow_codes(values, where)
    unknown = [v for v in found.values if v not in channels]
    if unknown or (found.codes < 0).any():
        what = f"unknown channel {unknown[0]!r}" if unknown else "a null channel"
        raise WindowError(f"{where}: {what}; known: {', '.join(channels)}")
    return np.array([channels.index(v) for v in found.values], dtype=np.int64)[found.codes]


def arrow_values(column: Column, values: pa.Array, where: str) -> Values:
    """A context or static column."""
    return arrow_numbers(values, where) if column.kind == "numeric" else arrow_codes(values, where)


def append(past: Values, present: Values) -> Values:
    """Past values, then present ones, over one vocabulary."""
    if not isinstance(past, Codes):
        return np.concatenate([past, cast(NDArray[np.float64], present)])
    assert isinstance(present, Codes)
    code = {value: i for i, value in enumerate(past.values)}
    moved = np.array([code.setdefault(v, len(code)) for v in present.values] + [-1], dtype=np.int64)
    return Codes(np.concatenate([past.codes, moved[present.codes]]), tuple(code))
