"""Builds windows only when they are read, so that only a few thousand of them are in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from mtorl.arrays import Ints
from mtorl.log import columns as read
from mtorl.log.columns import Codes, Values
from mtorl.log.dataset import DatasetSpec
from mtorl.window.window import WindowBatch

CHUNK = 4096


class Windows(Protocol):
    """A sequence of windows that are in memory (`WindowBatch`), or built when read (`StepWindows`)."""

    def __len__(self) -> int: ...

    def take(self, rows: Ints, /) -> WindowBatch:
        """Return the windows with the numbers `rows`, in this order."""


@dataclass(frozen=True)
class StepWindows:
    """A sequence of windows, each built only when it is read.

    Window i ends with row `rows_B[i]` of the log.
    """

    steps: pa.Table
    rows_B: Ints  # rows of the log, in ascending order
    spec: DatasetSpec
    targets: bool = False

    def __len__(self) -> int:
        return len(self.rows_B)

    def take(self, rows: Ints) -> WindowBatch:
        """Build the windows `rows`. In their `Targets.touchpoint_N`, 0 stands for the first row that they need."""
        rows_B = self.rows_B[rows]
        if not len(rows_B):
            return WindowBatch.from_steps(self.steps.slice(0, 0), rows_B, self.spec, self.targets)
        first, last = int(self._first_P[rows_B.min()]), int(rows_B.max())
        return WindowBatch.from_steps(
            self.steps.slice(first, last + 1 - first), rows_B - first, self.spec, self.targets
        )

    def only(self, rows: Ints) -> StepWindows:
        """Return the windows with the numbers `rows`, which must be ascending, without building them."""
        return replace(self, rows_B=self.rows_B[rows])

    @cached_property
    def _first_P(self) -> Ints:
        user_P = read.arrow_codes(read.flat(self.steps["user_id"]), "user_id").codes
        new_P = np.ones(len(user_P), dtype=np.bool_)
        new_P[1:] = user_P[1:] != user_P[:-1]
        first_P: Ints = np.maximum.accumulate(np.where(new_P, np.arange(len(user_P)), 0))
        return first_P


def in_chunks(windows: Windows) -> Iterator[WindowBatch]:
    """Yield all windows in batches of at most `CHUNK`, or one empty batch if there are none."""
    if isinstance(windows, WindowBatch) and len(windows) <= CHUNK:
        yield windows
        return
    for start in range(0, max(len(windows), 1), CHUNK):
        yield windows.take(np.arange(start, min(start + CHUNK, len(windows))))


def from_texts(texts: Sequence[str], spec: DatasetSpec) -> WindowBatch:
    """Build windows from JSON texts, in chunks, because parsed lists take ten times the memory of arrays."""
    parts = (texts[start : start + CHUNK] for start in range(0, max(len(texts), 1), CHUNK))
    return joined([WindowBatch.from_instances([json.loads(text) for text in part], spec) for part in parts])


def joined(batches: Sequence[WindowBatch]) -> WindowBatch:
    """Concatenate several batches of windows, without their targets."""

    def columns(held: str) -> dict[str, Any]:
        parts = [getattr(batch, held) for batch in batches]
        return {name: _column([part[name] for part in parts]) for name in parts[0]}

    lengths, channels = ([getattr(batch, name) for batch in batches] for name in ("length_B", "prev_channel_N"))
    whole, time, context = columns("prev_outcomes"), columns("time"), columns("context")
    static, features = columns("static"), columns("features")
    return WindowBatch(np.concatenate(lengths), np.concatenate(channels), whole, time, context, static, features)


def _column(parts: Sequence[Values]) -> Values:
    place: dict[str, int] = {}
    codes, numbers = [], []
    for part in parts:
        if isinstance(part, Codes):
            table = np.array([*(place.setdefault(value, len(place)) for value in part.values), -1], dtype=np.int64)
            codes.append(table[part.codes])
        else:
            numbers.append(part)
    return Codes(np.concatenate(codes), tuple(place)) if codes else np.concatenate(numbers)
