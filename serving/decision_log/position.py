"""Positions in the log: how far it is shipped, and the batch that follows.

The positions of a shipper stand in a small file beside the segments, replaced in one step. One counts only if the
segment still holds the bytes before it. If the file is damaged or belongs to other segments, shipping begins with the
oldest record: sinks must accept a record twice, but one that is left out is lost.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

import orjson

from mtorl.log.records import Kind
from mtorl.runtime.files import replacing
from serving.decision_log import segments

UPLOADED = "uploaded.json"
"""Of the shipper to the lake."""
_CHECKED_BYTES = 1024  # before the offset


@dataclass(frozen=True, order=True)
class Position:
    """A place between two records of a kind; segments are numbered from 1."""

    segment: int
    offset: int


OLDEST = Position(0, 0)


def load(folder: Path, file: str) -> dict[Kind, Position]:
    """The position of each kind in a file; `OLDEST` where it does not fit the segments."""
    try:
        stored = orjson.loads((folder / file).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        stored = {}
    return {kind: _verified(folder, kind, stored) for kind in get_args(Kind)}


def save(folder: Path, file: str, positions: Mapping[Kind, Position]) -> None:
    """Make the positions durable."""
    content = {
        kind: {"segment": at.segment, "offset": at.offset, "check": _check(folder, kind, at)}
        for kind, at in positions.items()
    }
    with replacing(folder / file, durable=True) as unfinished:
        unfinished.write_bytes(orjson.dumps(content))


def _verified(folder: Path, kind: Kind, stored: object) -> Position:
    try:
        fields = stored[kind]  # type: ignore[index]
        at = Position(int(fields["segment"]), int(fields["offset"]))
        check = fields["check"]
    except (KeyError, TypeError, ValueError):
        return OLDEST
    return at if at.offset >= 0 and check is not None and check == _check(folder, kind, at) else OLDEST


def _check(folder: Path, kind: Kind, at: Position) -> int | None:
    """Checksum of the bytes before a position; None if there are too few."""
    start = max(0, at.offset - _CHECKED_BYTES)
    try:
        with segments.path_of(folder, kind, at.segment).open("rb") as file:
            before = os.pread(file.fileno(), at.offset - start, start)
    except OSError:
        return None
    return zlib.crc32(before) if len(before) == at.offset - start else None


@dataclass(frozen=True)
class Batch:
    """Records of one kind that follow each other in one segment; each line with its newline."""

    kind: Kind
    start: Position
    lines: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.lines)

    @cached_property
    def end(self) -> Position:
        """Where the next record begins."""
        return Position(self.start.segment, self.start.offset + sum(map(len, self.lines)))

    def cut(self, size: int) -> Iterator[Batch]:
        """Batches of at most `size` records."""
        offset = self.start.offset
        for i in range(0, len(self.lines), size):
            piece = Batch(self.kind, Position(self.start.segment, offset), self.lines[i : i + size])
            offset = piece.end.offset
            yield piece


def read(folder: Path, kind: Kind, start: Position, end: Position, most: int) -> Batch | None:
    """The records from `start` on, at most `most`; None when there are none before `end`.

    Args:
        end: Behind the last durable record: the writer may be at work after it.
    """
    if start >= end:
        return None
    starts = [start]
    if start.segment < end.segment:
        numbers = map(segments.number, segments.segments(folder, kind))
        starts += [Position(number, 0) for number in numbers if start.segment < number <= end.segment]
    for at in starts:
        limit = end.offset if at.segment == end.segment else None
        if lines := _lines(segments.path_of(folder, kind, at.segment), at.offset, limit, most):
            return Batch(kind, at, lines)
    return None


def distance(folder: Path, kind: Kind, start: Position, end: Position) -> int:
    """Bytes between two positions."""
    between = 0
    if start.segment < end.segment:
        for path in segments.segments(folder, kind):
            if start.segment <= segments.number(path) < end.segment:
                between += path.stat().st_size
    return between + end.offset - start.offset


def is_uploaded(folder: Path) -> bool:
    """Whether all whole records of a spool are in the lake; another process may write to it."""
    at, end = load(folder, UPLOADED), Position(sys.maxsize, 0)
    return all(read(folder, kind, start, end, 1) is None for kind, start in at.items())


def _lines(path: Path, offset: int, limit: int | None, most: int) -> tuple[bytes, ...]:
    lines: list[bytes] = []
    try:
        with path.open("rb") as file:
            file.seek(offset)
            for line in file:
                offset += len(line)
                # A closed segment may end with what a failed write left.
                if not line.endswith(b"\n") or (limit is not None and offset > limit):
                    break
                lines.append(line)
                if len(lines) == most:
                    break
    except FileNotFoundError:
        pass  # the position is before the first segment, or its segment was deleted
    return tuple(lines)
