"""Old segments go once they are shipped, so that the disk is bounded; nothing that is not shipped ever goes.

Money outlives them: of a decision whose reservation is still open, the record moves to `open-decisions.jsonl`. Without
it the router would take the reservation, after a restart, for one that never reached the log, and give it back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import orjson

from mtorl.log.records import Kind
from serving.decision_log import segments
from serving.decision_log.position import Position


def prune(
    folder: Path,
    shipped: Mapping[Kind, Position],
    before: float,
    open_reservations: Callable[[], Collection[str] | None],
) -> list[tuple[Kind, int]]:
    """Delete segments.

    Args:
        folder: Of the spool.
        shipped: Behind the last record that the sink has acknowledged and that `position.save` made durable.
        before: Only what was last written before this time (seconds since 1970).
        open_reservations: Asks the ledger; None while it can't say, and nothing is deleted.

    Returns:
        Kind and number of each segment that is gone.
    """
    # The position's own segment stays, so that numbers are never used twice.
    old: dict[Kind, list[Path]] = {
        kind: [
            path
            for path in segments.segments(folder, kind)
            if segments.number(path) < at.segment and path.stat().st_mtime < before
        ]
        for kind, at in shipped.items()
    }
    if not any(old.values()) or (reservations := open_reservations()) is None:
        return []
    if old.get("decision"):
        _carry(folder, old["decision"], set(reservations))
    gone: list[tuple[Kind, int]] = []
    for kind, paths in old.items():
        for path in paths:
            path.unlink()
            gone.append((kind, segments.number(path)))
    return gone


def _carry(folder: Path, old: list[Path], wanted: set[str]) -> None:
    kept = folder / segments.OPEN_DECISIONS
    lines = [
        orjson.dumps(record) + b"\n"
        for path in [kept, *old]
        for record in segments.read_file(path)
        if record["reservation_id"] in wanted
    ]
    segments.replace(kept, b"".join(lines))
