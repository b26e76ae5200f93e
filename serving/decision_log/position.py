"""Positions in the log: how far it is shipped, and the batch that follows.

The positions of a shipper stand in a small file beside the segments, replaced in one step. One counts only where a line
of its segment ends. Otherwise shipping begins with the oldest record: sinks must accept a record twice, but one that is
left out is lost.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import orjson

from mtorl.log.records import Kind
from mtorl.runtime.files import replacing
from serving.decision_log import segments
from serving.decision_log.segments import OLDEST, Position

UPLOADED = "uploaded.json"
"""Of the shipper to the lake."""


def load(folder: Path, file: str) -> dict[Kind, Position]:
    """The position of each kind in a file; `OLDEST` where it does not fit the segments."""
    stored: Any = {}
    with contextlib.suppress(OSError, orjson.JSONDecodeError):
        stored = orjson.loads((folder / file).read_bytes())
    return {kind: _checked(folder, kind, stored) for kind in get_args(Kind)}


def save(folder: Path, file: str, positions: Mapping[Kind, Position]) -> None:
    """Make the positions durable."""
    with replacing(folder / file, durable=True) as unfinished:
        unfinished.write_bytes(orjson.dumps({kind: list(at) for kind, at in positions.items()}))


def _checked(folder: Path, kind: Kind, stored: Any) -> Position:
    with contextlib.suppress(OSError, LookupError, TypeError, ValueError):
        at = Position(*map(int, stored[kind]))
        with segments.path_of(folder, kind, at.segment).open("rb") as file:
            if at.offset == 0 or os.pread(file.fileno(), 1, at.offset - 1) == b"\n":
                return at
    return OLDEST


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
        start = self.start
        for i in range(0, len(self.lines), size):
            yield (piece := Batch(self.kind, start, self.lines[i : i + size]))
            start = piece.end


def read(folder: Path, kind: Kind, start: Position, end: Position, most: int) -> Batch | None:
    """The records from `start` on, at most `most`, of one segment; None if there are none before the writer's `end`."""
    for path in segments.segments(folder, kind) if start < end else ():
        at = max(start, Position(segments.number(path), 0))
        if not segments.number(path) == at.segment <= end.segment:
            continue
        lines, offset = list[bytes](), at.offset
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:  # it may be deleted meanwhile
            file.seek(offset)
            for line in file:
                offset += len(line)
                # A closed segment may end with what a failed write left.
                if not line.endswith(b"\n") or (at.segment, offset) > end or len(lines) == most:
                    break
                lines.append(line)
        if lines:
            return Batch(kind, at, tuple(lines))
    return None


def distance(folder: Path, kind: Kind, start: Position, end: Position) -> int:
    """Bytes between two positions."""
    paths = segments.segments(folder, kind) if start.segment < end.segment else ()
    between = (path for path in paths if start.segment <= segments.number(path) < end.segment)
    return sum(path.stat().st_size for path in between) + end.offset - start.offset


def is_uploaded(folder: Path) -> bool:
    """Whether all whole records of a spool are in the lake; another process may write to it."""
    at, end = load(folder, UPLOADED), Position(sys.maxsize, 0)
    return all(read(folder, kind, start, end, 1) is None for kind, start in at.items())
