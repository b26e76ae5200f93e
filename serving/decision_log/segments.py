"""Append-only files of JSON lines that survive a crash and a full disk.

`<kind>-00000001.jsonl` is followed by 00000002 once it has grown large. A record counts when its line, newline
included, has been synced. What a crash left of a line is moved to `<segment>.torn` when the folder is opened again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from serving.decision_log.records import Kind

SEGMENT_BYTES = 64 * 1024 * 1024


def segments(folder: Path, kind: Kind) -> list[Path]:
    """The files of a kind, oldest first."""
    return sorted(folder.glob(f"{kind}-*.jsonl"))


def read(folder: Path, kind: Kind) -> Iterator[dict[str, Any]]:
    """All records of a kind, in the order in which they were written."""
    for path in segments(folder, kind):
        with path.open("rb") as lines:
            yield from (orjson.loads(line) for line in lines if line.endswith(b"\n"))


def repair(folder: Path, kind: Kind) -> int:
    """Set aside everything that is not a whole record; returns how many pieces there were."""
    pieces = 0
    for path in segments(folder, kind):
        with path.open("rb") as file:
            lines = list(file)
        torn = [line for line in lines if not _is_record(line)]
        if torn:
            with path.with_suffix(".torn").open("ab") as aside:
                aside.write(b"\n".join(line.rstrip(b"\n") for line in torn) + b"\n")
                os.fsync(aside.fileno())
            draft = path.with_suffix(".draft")
            with draft.open("wb") as file:
                file.writelines(line for line in lines if _is_record(line))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            _sync_folder(folder)
            pieces += len(torn)
    return pieces


class SegmentWriter:
    """Writes to the newest segment of a kind. For one thread, in a folder that nobody else writes to."""

    def __init__(self, folder: Path, kind: Kind, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder
        self._kind = kind
        self._limit = segment_bytes
        self._file = -1
        self._size = 0  # bytes that are durable
        self._resume = True  # the first append goes on where the last run ended

    def append(self, lines: bytes) -> None:
        """Write whole lines and return when they are durable.

        Raises:
            OSError: they are not; nothing of them will be read.
        """
        if self._file < 0 or self._size >= self._limit:
            self._next_segment()
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fdatasync(self._file)
        except OSError:
            # After a failed sync nobody knows what the disk holds: cut the file back, and go on in a new one.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            self.close()
            raise
        self._size += len(lines)

    def close(self) -> None:
        """Close the segment; the next append opens another."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = -1

    def _next_segment(self) -> None:
        self.close()
        existing = segments(self._folder, self._kind)
        if existing and self._resume and existing[-1].stat().st_size < self._limit:
            path = existing[-1]
        else:
            number = int(existing[-1].stem.rpartition("-")[2]) + 1 if existing else 1
            path = self._folder / f"{self._kind}-{number:08d}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        self._size = os.fstat(self._file).st_size
        self._resume = False
        _sync_folder(self._folder)


def _is_record(line: bytes) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
