"""Removes users from a spool that no router holds.

    forget_users("spool", ["u1"], datetime.now(UTC))

A router's own spool loses everything within 75 minutes of its upload, which leaves the user out
(`mtorl.log.forgotten`). A decision whose reservation may still be open stays a day: without it a router would
give the money back when it starts. A cost that was logged is taken to have reached the ledger.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import orjson

from mtorl.log.records import Kind
from mtorl.runtime.files import replacing
from mtorl.runtime.locks import acquire
from serving.decision_log import segments

_OPEN = timedelta(hours=24)  # how long a reservation without a cost stays open, unless a router is told otherwise


@dataclass(frozen=True)
class SpoolWithout:
    """Numbers of records of some users in a spool."""

    removed: int
    left: int  # stay for now
    held: bool  # by a router, so nothing was removed


def forget_in_spools(folder: Path, users: Collection[str], now: datetime) -> dict[str, SpoolWithout]:
    """`forget_users` for all spools in a folder; by their paths in it."""
    root = folder.resolve()
    spools = [path.parent for path in sorted(root.rglob(segments.IDENTITY)) if (path.parent / ".lock").exists()]
    return {str(spool.relative_to(root)): forget_users(spool, users, now) for spool in spools}


def forget_users(folder: str | Path, users: Collection[str], now: datetime) -> SpoolWithout:
    """Remove users from a spool, unless a router holds it.

    Segments whose bytes change don't fit the noted position any more, so the next router ships them again.

    Args:
        now: Reservations younger than a day may be open.
    """
    spool, wanted = Path(folder), frozenset(users)
    decisions = {r["decision_id"]: r for r in segments.read(spool, "decision") if r["user_id"] in wanted}
    try:
        lock = acquire(spool / ".lock")
    except BlockingIOError:
        return SpoolWithout(0, len(decisions), held=True)
    try:
        costs = segments.read(spool, "outcome")
        finished = {r["decision_id"] for r in costs if r["kind"] in ("cost", "cancel")}
        kept = {name for name, r in decisions.items() if name not in finished and _may_hold_money(r, now)}
        gone = decisions.keys() - kept

        names = [orjson.dumps(user) for user in wanted]

        def goes(line: bytes) -> bool:
            # A crash may have cut a line just before its end.
            if (record := segments.record(line.rstrip(b"\n") + b"\n")) is not None:
                own = record.get("user_id") in wanted and record["decision_id"] not in kept
                return own or record.get("decision_id") in gone
            return any(name in line for name in names)  # cut

        removed = 0
        for path in _files(spool):  # outcomes first: their decisions say which they are, also after an interruption
            removed += _remove(path, goes)
        return SpoolWithout(removed, len(kept), held=False)
    finally:
        os.close(lock)


def _may_hold_money(decision: Mapping[str, Any], now: datetime) -> bool:
    taken = datetime.fromisoformat(decision["event_time"])
    return decision["reservation_id"] is not None and not decision["withdrawn"] and now - taken < _OPEN


def _files(spool: Path) -> Iterator[Path]:
    kinds: tuple[Kind, ...] = get_args(Kind)
    for kind in reversed(kinds):
        yield from segments.segments(spool, kind)
        yield spool / f"poison-{kind}.jsonl"
        yield from sorted(spool.glob(f"{kind}-*.torn"))


def _remove(path: Path, goes: Callable[[bytes], bool]) -> int:
    """Write a file without some of its records; one without any of them is not touched."""
    if not path.exists():
        return 0
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if not goes(line)]
    if len(kept) < len(lines):
        with replacing(path, durable=True) as unfinished:
            unfinished.write_bytes(b"".join(kept))
            unfinished.chmod(path.stat().st_mode)
    return len(lines) - len(kept)
