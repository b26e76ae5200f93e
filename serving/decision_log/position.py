"""How far the log has been shipped: a small file beside the segments, replaced in one step.

It is believed only if the segment still holds, before the offset, what it held when the file was written. A file that
is damaged, or that belongs to other segments, sends the shipper back to the oldest record: again is fine, never is not.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import orjson

from mtorl.log.records import Kind
from serving.decision_log import segments

FILE = "shipped.json"
_LOOKS_BACK = 1024  # bytes before the offset that must be as they were


@dataclass(frozen=True, order=True)
class Position:
    """A place between two records of a kind; segments are numbered from 1."""

    segment: int
    offset: int


OLDEST = Position(0, 0)


def load(folder: Path) -> dict[Kind, Position]:
    """The position of each kind; `OLDEST` where none can be believed."""
    try:
        stored = orjson.loads((folder / FILE).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        stored = {}
    return {kind: _believed(folder, kind, stored) for kind in get_args(Kind)}


def save(folder: Path, positions: Mapping[Kind, Position]) -> None:
    """Make the positions durable."""
    content = {
        kind: {"segment": at.segment, "offset": at.offset, "check": _check(folder, kind, at)}
        for kind, at in positions.items()
    }
    segments.replace(folder / FILE, orjson.dumps(content))


def _believed(folder: Path, kind: Kind, stored: object) -> Position:
    try:
        fields = stored[kind]  # type: ignore[index]
        found = Position(int(fields["segment"]), int(fields["offset"]))
        check = fields["check"]
    except (KeyError, TypeError, ValueError):
        return OLDEST
    return found if found.offset >= 0 and check is not None and check == _check(folder, kind, found) else OLDEST


def _check(folder: Path, kind: Kind, at: Position) -> int | None:
    """Checksum of what lies before a position; None where nothing does."""
    start = max(0, at.offset - _LOOKS_BACK)
    try:
        with segments.path_of(folder, kind, at.segment).open("rb") as file:
            before = os.pread(file.fileno(), at.offset - start, start)
    except OSError:
        return None
    return zlib.crc32(before) if len(before) == at.offset - start else None
