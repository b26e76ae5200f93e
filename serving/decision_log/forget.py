"""Removes the records of users from a spool that no running router uses.

A decision whose cost is not known yet is kept for a day, because a restarted router would release its money otherwise.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from mtorl.log.records import KINDS
from mtorl.runtime.files import replacing
from mtorl.runtime.locks import locked
from serving.decision_log import segments

_OPEN = timedelta(hours=24)  # default age at which a reservation without a cost expires


class SpoolWithout(NamedTuple):
    """The numbers of removed and of kept records in one spool."""

    removed: int
    left: int  # decisions whose reservation may still be open
    held: bool  # whether a running router uses the spool, so that nothing was removed


def forget_in_spools(folder: Path, users: Collection[str], now: datetime) -> dict[str, SpoolWithout]:
    """Call `forget_users` for every spool below a folder; returns the results by relative path."""
    root = folder.resolve()
    spools = [path.parent for path in sorted(root.rglob(segments.IDENTITY)) if (path.parent / ".lock").exists()]
    return {str(spool.relative_to(root)): forget_users(spool, users, now) for spool in spools}


def forget_users(folder: str | Path, users: Collection[str], now: datetime) -> SpoolWithout:
    """Remove the records of users from a spool, unless a running router uses it.

    If records are removed, all remaining records are shipped again, because their positions in the files change.
    """
    spool, wanted = Path(folder), frozenset(users)
    decisions = {r["decision_id"]: r for r in segments.read(spool, "decision") if r["user_id"] in wanted}
    try:
        with locked(spool / ".lock", BlockingIOError()):
            costs = segments.read(spool, "outcome")
            finished = {r["decision_id"] for r in costs if r["kind"] in ("cost", "cancel")}
            kept = {name for name, r in decisions.items() if name not in finished and _may_hold_money(r, now)}
            goes = partial(_goes, wanted, decisions.keys() - kept, kept)
            return SpoolWithout(sum(_remove(path, goes) for path in _files(spool)), len(kept), held=False)
    except BlockingIOError:
        return SpoolWithout(0, len(decisions), held=True)


def _may_hold_money(decision: Mapping[str, Any], now: datetime) -> bool:
    taken = datetime.fromisoformat(decision["event_time"])
    return decision["reservation_id"] is not None and not decision["withdrawn"] and now - taken < _OPEN


def _goes(users: Collection[str], gone: Collection[str], kept: Collection[str], line: bytes) -> bool:
    if (record := segments.record(line)) is not None and "record" in record:  # set aside by a shipper
        line = record["record"].encode() + b"\n"
        record = segments.record(line)
    if record is None:
        return any(orjson.dumps(user) in line for user in users)
    own = record.get("user_id") in users and record["decision_id"] not in kept
    return own or record.get("decision_id") in gone


def _files(spool: Path) -> Iterator[Path]:
    """Yield the spool's files, decisions last: after an interruption, they still identify the users' outcomes."""
    for kind in reversed(KINDS):
        yield from segments.segments(spool, kind)
        yield from spool.glob(f"poison-{kind}.jsonl")


def _remove(path: Path, goes: Callable[[bytes], bool]) -> int:
    lines = path.read_bytes().splitlines(keepends=True)
    # A crash has cut off a line without a newline.
    kept = [line for line in lines if line.endswith(b"\n") and not goes(line)]
    if len(kept) < len(lines):
        for noted in path.parent.glob("*.json"):  # positions
            noted.unlink()
        with replacing(path, durable=True) as unfinished:
            unfinished.write_bytes(b"".join(kept))
            unfinished.chmod(path.stat().st_mode)
    return len(lines) - len(kept)
