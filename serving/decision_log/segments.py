"""Append-only files of JSON lines, called segments, that survive a crash and a full disk.

After a crash, the last line may be incomplete. Readers skip such a line, and the next append removes it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from mtorl.log.records import KINDS, Kind
from mtorl.runtime.files import replacing, sync

SEGMENT_BYTES = 64 * 1024 * 1024
# File times are less precise than the clock, so a file may seem to be this much newer than now.
_CLOCK_SECONDS = 1.0
_SEGMENT_SECONDS = 3600.0  # close small segments too, because only closed segments can be deleted
IDENTITY = "identity"
UPLOADED = "uploaded.json"  # position up to which records were uploaded


class Position(NamedTuple):
    """A position between two records of a kind."""

    segment: int  # number, from 1
    offset: int  # bytes


OLDEST = Position(0, 0)


def segments(folder: Path, kind: Kind) -> list[Path]:
    """Return the segments of a kind, oldest first."""
    return sorted(folder.glob(f"{kind}-*.jsonl"))


def path_of(folder: Path, kind: Kind, number: int) -> Path:
    """Return the path of a segment."""
    return folder / f"{kind}-{number:08d}.jsonl"


def number(path: Path) -> int:
    """Return the number of a segment."""
    return int(path.stem.rpartition("-")[2])


def read(folder: Path, kind: Kind) -> Iterator[dict[str, Any]]:
    """Yield all records of a kind, oldest first."""
    for path in segments(folder, kind):
        yield from read_file(path)


def read_file(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a segment; none if it has been deleted."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as lines:
        yield from filter(None, map(record, lines))


def newest(folder: Path, kind: Kind, count: int) -> Iterator[dict[str, Any]]:
    """Yield the last `count` records of a kind, oldest first."""
    paths: list[Path] = []
    surplus = -count  # records in `paths` beyond the newest `count`
    for path in reversed(segments(folder, kind)):
        if surplus >= 0:
            break
        paths.insert(0, path)
        surplus += sum(1 for _ in read_file(path))
    records = (record for path in paths for record in read_file(path))
    yield from islice(records, max(surplus, 0), None)


def record(line: bytes) -> dict[str, Any] | None:
    """Parse a line; returns None if it is not a complete JSON object."""
    with contextlib.suppress(orjson.JSONDecodeError):
        if line.endswith(b"\n") and isinstance(found := orjson.loads(line), dict):
            return found
    return None


def _whole_bytes(path: Path) -> int:
    with path.open("rb") as file:
        if not path.stat().st_size:
            return 0
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.rfind(b"\n") + 1


class SegmentWriter:
    """Appends records of one kind to the newest segment.

    Only one process may write to a folder. A writer is not thread-safe.
    """

    def __init__(self, folder: Path, kind: Kind, segment_bytes: int) -> None:
        self._folder = folder
        self._kind = kind
        self._limit = segment_bytes
        self._path = str(folder)  # of the newest segment
        self._file = -1
        self._opened = 0.0
        self.end = OLDEST  # position after the last durable record; other threads may read it

    def find_end(self) -> None:
        """Set `end` after the last complete line, and delete segments without one."""
        for path in reversed(segments(self._folder, self._kind)):
            if size := _whole_bytes(path):
                self._path, self.end = str(path), Position(number(path), size)
                return
            path.unlink()

    def append(self, lines: bytes) -> None:
        """Write complete lines durably. After OSError, readers see none of the lines."""
        segment, size = self.end
        old = self._file >= 0 and time.monotonic() - self._opened > _SEGMENT_SECONDS
        if segment == 0 or size >= self._limit or old or self._is_ahead():
            self.close()
            segment, size = segment + 1, 0
        if self._file < 0:
            self._file = self._open(segment, size)
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fdatasync(self._file)
        except OSError:
            # If this fails, the next append cuts the partly written lines off.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, size)
            self.close()
            raise
        self.end = Position(segment, size + len(lines))

    def _is_ahead(self) -> bool:
        """Return whether a new segment is needed, because the clock was set back or the segment was deleted."""
        try:
            return os.stat(self._path).st_mtime > time.time() + _CLOCK_SECONDS
        except FileNotFoundError:
            return True

    def close(self) -> None:
        """Close the segment; the next append opens it again."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = -1

    def _open(self, segment: int, size: int) -> int:
        self._path = str(path_of(self._folder, self._kind, segment))
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            os.ftruncate(file, size)
            if size == 0:
                sync(self._folder)  # makes the new file's name durable
            self._opened = time.monotonic()
        except OSError:
            os.close(file)
            raise
        return file


def positions(folder: Path, file: str) -> dict[Kind, Position]:
    """Read the shipped position of each kind; `OLDEST` if it is not valid."""
    stored: Any = {}
    with contextlib.suppress(OSError, orjson.JSONDecodeError):
        stored = orjson.loads((folder / file).read_bytes())
    return {kind: _checked(folder, kind, stored) for kind in KINDS}


def note_positions(folder: Path, file: str, at: Mapping[Kind, Position]) -> None:
    """Store positions durably and atomically."""
    with replacing(folder / file, durable=True) as unfinished:
        unfinished.write_bytes(orjson.dumps({kind: list(position) for kind, position in at.items()}))


def _checked(folder: Path, kind: Kind, stored: Any) -> Position:
    with contextlib.suppress(OSError, LookupError, TypeError, ValueError):
        at = Position(*map(int, stored[kind]))
        with path_of(folder, kind, at.segment).open("rb") as file:
            if at.offset == 0 or os.pread(file.fileno(), 1, at.offset - 1) == b"\n":
                return at
    return OLDEST


@dataclass(frozen=True)
class Batch:
    """Consecutive records of one kind from one segment, as lines with newlines."""

    kind: Kind
    start: Position
    lines: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.lines)

    @cached_property
    def end(self) -> Position:
        """Position of the next record."""
        return Position(self.start.segment, self.start.offset + sum(map(len, self.lines)))

    def cut(self, size: int) -> Iterator[Batch]:
        """Split the batch into batches of at most `size` records."""
        start = self.start
        for i in range(0, len(self.lines), size):
            yield (piece := Batch(self.kind, start, self.lines[i : i + size]))
            start = piece.end


def read_batch(folder: Path, kind: Kind, start: Position, end: Position, most: int) -> Batch | None:
    """Read up to `most` records between two positions, all from one segment; None if there are none."""
    for path in segments(folder, kind) if start < end else ():
        at = max(start, Position(number(path), 0))
        if not number(path) == at.segment <= end.segment:
            continue
        lines, offset = list[bytes](), at.offset
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:  # it may have been deleted
            file.seek(offset)
            for line in file:
                offset += len(line)
                # A failed write may have left an incomplete line.
                if not line.endswith(b"\n") or (at.segment, offset) > end or len(lines) == most:
                    break
                lines.append(line)
        if lines:
            return Batch(kind, at, tuple(lines))
    return None


def distance(folder: Path, kind: Kind, start: Position, end: Position) -> int:
    """Return the number of bytes between two positions."""
    paths = segments(folder, kind) if start.segment < end.segment else ()
    between = (path for path in paths if start.segment <= number(path) < end.segment)
    return sum(path.stat().st_size for path in between) + end.offset - start.offset


def is_uploaded(folder: Path) -> bool:
    """Whether all complete records were uploaded into the lake."""
    at, end = positions(folder, UPLOADED), Position(sys.maxsize, 0)
    return all(read_batch(folder, kind, start, end, 1) is None for kind, start in at.items())
