"""Names the records that a training reads, so that a step that is repeated reads the same ones.

    snapshot = Snapshot.of(Lake.open("lake"))            # None: the lake has no decision
    str(snapshot)                                        # "2026-11-26T02:10:07.281+00:00 5f0c9a7e..."
    Snapshot.parsed(text).until

The time is that of the newest upload: a later run leaves out what was decided or heard after it. The digest is that of
the file names, so a new upload changes both, and so does a compaction.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from mtorl.log.lake import Lake
from mtorl.log.records import Kind
from mtorl.log.touchpoints import LogError

_LEARNT: tuple[Kind, ...] = ("decision", "outcome", "window")  # kinds of records that a training reads


@dataclass(frozen=True)
class Snapshot:
    """A state of a lake."""

    until: datetime
    digest: str

    @classmethod
    def of(cls, lake: Lake) -> Self | None:
        """The state now; None without a decision."""
        if not lake:
            return None
        files = [file for kind in _LEARNT for file in (*lake.arrived(kind), *lake.closed(kind))]
        digest = hashlib.sha256("\n".join(sorted(file.name for file in files)).encode())
        return cls(max(file.written for file in files if file.written).astimezone(UTC), digest.hexdigest())

    @classmethod
    def parsed(cls, text: str) -> Self:
        """The snapshot of a text; raises a `LogError` if it is none."""
        until, _, digest = text.partition(" ")
        try:
            return cls(datetime.fromisoformat(until), digest)
        except ValueError:
            raise LogError(f"{text!r} is no snapshot of a lake; the step `compact` returns one") from None

    def __str__(self) -> str:
        return f"{self.until.isoformat()} {self.digest}"
