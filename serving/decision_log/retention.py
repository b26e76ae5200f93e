"""Deletes old segments once they are shipped, so that the disk does not fill up.

A decision whose reservation is still open outlives its segment, in `open-decisions.jsonl`. Without it the router would
conclude, after a restart, that the decision was never logged, and would give the reservation back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import orjson

from mtorl.log.records import Kind
from mtorl.runtime.files import replacing
from serving.decision_log import segments
from serving.decision_log.position import Position


def prune(
    folder: Path,
    shipped: Mapping[Kind, Position],
    before: float,
    open_reservations: Callable[[], Collection[str] | None],
) -> list[tuple[Kind, int]]:
    """Delete segments; returns the kind and number of each.

    Args:
        shipped: Behind the last record that the sink has acknowledged and that `position.save` made durable.
        before: Deletes only segments last written before this time (seconds since 1970).
        open_reservations: Asks the ledger; None while it does not answer, and nothing is deleted.
    """
    # The segment of the position stays, so that numbers are never used twice.
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
        _keep_open_decisions(folder, old["decision"], set(reservations))
    deleted: list[tuple[Kind, int]] = []
    for kind, paths in old.items():
        for path in paths:
            path.unlink()
            deleted.append((kind, segments.number(path)))
    return deleted


def _keep_open_decisions(folder: Path, old: list[Path], reservations: set[str]) -> None:
    kept = folder / segments.OPEN_DECISIONS
    lines = [
        orjson.dumps(record) + b"\n"
        for path in [kept, *old]
        for record in segments.read_file(path)
        if record["reservation_id"] in reservations
    ]
    with replacing(kept, durable=True) as unfinished:
        unfinished.write_bytes(b"".join(lines))
