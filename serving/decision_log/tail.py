"""Reading the log from a position: whole, durable lines; a batch never goes beyond the end of a segment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mtorl.log.records import Kind
from serving.decision_log import segments
from serving.decision_log.position import Position


@dataclass(frozen=True)
class Batch:
    """Records of one kind that follow each other in one segment.

    Attributes:
        lines: The bytes of the records, each with its newline.
    """

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
        folder: Of the spool.
        kind: Which records.
        start: Behind the last record that was read.
        end: Behind the last durable record: the writer may be at work after it.
        most: Largest number of records.
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


def count(folder: Path, kind: Kind, start: Position, end: Position) -> int:
    """Number of records between two positions."""
    records = 0
    while batch := read(folder, kind, start, end, 10_000):
        records += len(batch)
        start = batch.end
    return records


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
