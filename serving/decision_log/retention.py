"""Old segments go once they are shipped, so that the disk is bounded; nothing that is not shipped ever goes.

Money outlives them: of a decision whose reservation is still open, the record moves to `open-decisions.jsonl`. Without
it the router would take the reservation, after a restart, for one that never reached the log, and give it back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import orjson

from serving.decision_log import segments
from serving.decision_log.position import Position
from serving.decision_log.records import Kind


def prune(
    folder: Path, shipped: Mapping[Kind, Position], before: float, open_reservations: Collection[str]
) -> list[tuple[Kind, int]]:
    """Delete segments.

    Args:
        folder: Of the spool.
        shipped: Behind the last record that the sink has acknowledged and that `position.save` made durable.
        before: Only what was last written before this time (seconds since 1970).
        open_reservations: Of the ledger.

    Returns:
        Kind and number of each segment that is gone.
    """
    gone: list[tuple[Kind, int]] = []
    for kind, at in shipped.items():
        # The position's own segment stays, so that numbers are never used twice.
        old = [
            path
            for path in segments.segments(folder, kind)
            if segments.number(path) < at.segment and path.stat().st_mtime < before
        ]
        if old and kind == "decision":
            _carry(folder, old, open_reservations)
        for path in old:
            path.unlink()
            gone.append((kind, segments.number(path)))
    return gone


def _carry(folder: Path, old: list[Path], open_reservations: Collection[str]) -> None:
    wanted = set(open_reservations)
    kept = folder / segments.OPEN_DECISIONS
    lines = [
        orjson.dumps(record) + b"\n"
        for path in [kept, *old]
        for record in segments.read_file(path)
        if record["reservation_id"] in wanted
    ]
    segments.replace(kept, b"".join(lines))
