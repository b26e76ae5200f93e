"""How far the log has been shipped: a small file beside the segments, replaced in one step.

It is used only if the segment still holds, before the offset, the bytes that it held when the file was written. If the
file is damaged or belongs to other segments, the shipper begins with the oldest record again: sinks must accept a
record twice anyway, but a record that is left out would be lost.
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
from mtorl.runtime.files import replacing
from serving.decision_log import segments

FILE = "shipped.json"
_CHECKED_BYTES = 1024  # before the offset


@dataclass(frozen=True, order=True)
class Position:
    """A place between two records of a kind; segments are numbered from 1."""

    segment: int
    offset: int


OLDEST = Position(0, 0)


def load(folder: Path) -> dict[Kind, Position]:
    """The position of each kind; `OLDEST` where the file does not fit the segments."""
    try:
        stored = orjson.loads((folder / FILE).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        stored = {}
    return {kind: _verified(folder, kind, stored) for kind in get_args(Kind)}


def save(folder: Path, positions: Mapping[Kind, Position]) -> None:
    """Make the positions durable."""
    content = {
        kind: {"segment": at.segment, "offset": at.offset, "check": _check(folder, kind, at)}
        for kind, at in positions.items()
    }
    with replacing(folder / FILE, durable=True) as unfinished:
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
