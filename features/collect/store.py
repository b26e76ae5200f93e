"""Collected decisions and their outcomes, by the hour of the decision; each run adds what the decision log has gained.

    collect("decision_log", "collected")

    collected/decisions/date=2026-11-25/hour=20/part.parquet     one row a decision: the fields of its record
    collected/outcomes/date=2026-11-25/hour=20/part.parquet      one row an outcome, beside its decision
    collected/unknown.parquet                                    outcomes whose decision was not seen yet
    collected/read.json                                          which files of the decision log have been read

The decision log is what routers export or ship, in any number of folders (`mtorl.log.records` defines the records); it
keeps a week, and this folder keeps everything. An hour is written anew only if a decision or an outcome of it came in,
whole and in one step. A run that is killed leaves hours that are complete, and the next one reads the same files again:
a record that is there already changes nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from features.collect.database import execute, limited_database, parquet, text
from mtorl.log.records import ID_FIELD, Kind, one_record_each, sql_columns
from mtorl.log.touchpoints import LogError
from mtorl.runtime import progress
from mtorl.runtime.files import replacing

if TYPE_CHECKING:
    import duckdb

PART = "part.parquet"
_READ, _UNKNOWN, _LOCK = "read.json", "unknown.parquet", ".lock"
_KEEP_DAYS = 35  # how long after its decision an outcome is still looked up


@dataclass(frozen=True)
class Collected:
    """What a run has added; `str()` of it is a summary for people."""

    decisions: int
    outcomes: int
    hours: int  # that were written anew
    unknown: int  # outcomes that wait for their decision
    unreadable: tuple[str, ...]  # files that are not complete; the next run tries them again

    def __str__(self) -> str:
        hours = "1 hour" if self.hours == 1 else f"{self.hours:,} hours"
        lines = [f"{self.decisions:,} decisions and {self.outcomes:,} outcomes more, of {hours}"]
        if self.unknown:
            lines.append(f"{self.unknown:,} outcomes wait for their decision")
        lines += [f"not complete, and left for the next time: {file}" for file in self.unreadable]
        return "\n".join(lines)


def collect(decision_log: str | Path, store: str | Path) -> Collected:
    """Bring a store up to date.

    Args:
        decision_log: Folder, at any depth of which lie decisions.parquet and outcomes.parquet of exports, or the hourly
            folders of a sink.
        store: Made if it does not exist.

    Raises:
        LogError: There is no decision log, or another run is at work on this store.
    """
    log, out = Path(decision_log), Path(store)
    found = {kind: _files(log, kind) for kind in get_args(Kind)}
    if not found["decision"] and not (out / "decisions").is_dir():
        raise LogError(
            f"{log}: no decisions.parquet in this folder or below it; a run of `mtorl run` leaves it in decision_log, "
            "and on a cluster the container `export` beside each router"
        )
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out), limited_database() as (db, _):
        read = _read_before(out)
        new: dict[Kind, list[Path]] = {}
        unreadable: list[str] = []
        for kind, files in found.items():
            new[kind] = []
            for file in files:
                name, mark = str(file.relative_to(log)), _mark(file)
                if mark is None or read.get(name) == mark:
                    continue
                if _complete(db, file):
                    new[kind].append(file)
                    read[name] = mark
                else:
                    unreadable.append(str(file))
        return _Run(db, out).add(new, read, tuple(unreadable))


def collect_if_any(decision_log: str, store: str) -> str:
    """Bring a store up to date where there is a decision log, as a pipeline does that does not know.

    Args:
        decision_log: See `collect`; empty, or a folder without decisions, adds nothing.
        store: See `collect`; empty for none.

    Returns:
        A digest that changes with what the store holds; "" if it holds no decisions.

    Raises:
        LogError: Another run is at work on this store.
    """
    if not store:
        return ""
    if decision_log and _files(Path(decision_log), "decision"):
        collect(decision_log, store)
    digest = hashlib.sha256()
    for kind in get_args(Kind):
        for file in hourly(store, kind):
            digest.update(f"{file.relative_to(store)}:{_mark(file)}".encode())
    return digest.hexdigest() if hourly(store, "decision") else ""


def hourly(store: str | Path, kind: Kind) -> list[Path]:
    """Files of a store that hold all records of a kind, oldest hour first."""
    return sorted(Path(store, f"{kind}s").glob(f"date=*/hour=*/{PART}"))


class _Run:
    """Adds new files to a store."""

    def __init__(self, db: duckdb.DuckDBPyConnection, out: Path) -> None:
        self._db = db
        self._out = out

    def add(self, new: dict[Kind, list[Path]], read: dict[str, list[int]], unreadable: tuple[str, ...]) -> Collected:
        self._open("new_decision", "decision", new["decision"])
        waiting = [self._out / _UNKNOWN] if (self._out / _UNKNOWN).exists() else []
        self._open("new_outcome", "outcome", [*new["outcome"], *waiting])
        added = self._counts("new_decision")
        hours = {hour for hour, _ in added}
        self._place_outcomes()
        placed = execute(self._db, "SELECT hour, count(*) FROM placed WHERE hour IS NOT NULL GROUP BY 1")
        touched = hours | {hour for hour, _ in placed}
        before = self._rows("decision", hours), self._rows("outcome", {hour for hour, _ in placed})
        for done, hour in enumerate(sorted(touched)):
            progress.report(done, len(touched), f"{hour:%Y-%m-%d %H}:00")
            # Outcomes first: a decision that is there has what was known of it.
            if any(hour == other for other, _ in placed):
                self._merge("outcome", hour, f"(SELECT * EXCLUDE (hour) FROM placed WHERE hour = {_literal(hour)})")
            if hour in hours:
                end = f"{_literal(hour)} + INTERVAL 1 HOUR"
                self._merge(
                    "decision",
                    hour,
                    f"(FROM new_decision WHERE event_time >= {_literal(hour)} AND event_time < {end})",
                )
        unknown = self._keep_unknown()
        with replacing(self._out / _READ) as unfinished:
            unfinished.write_text(json.dumps(read, indent=0))
        progress.report(1, 1, f"{len(touched)} hours")
        after = self._rows("decision", hours), self._rows("outcome", {hour for hour, _ in placed})
        return Collected(after[0] - before[0], after[1] - before[1], len(touched), unknown, unreadable)

    def _open(self, view: str, kind: Kind, files: list[Path]) -> None:
        """A view of the records in some files, with all columns of today's records in their types."""
        columns = sql_columns(kind)
        nulls = ", ".join(f"NULL::{type_} AS {name}" for name, type_ in columns.items())
        records = f"SELECT {nulls} WHERE false"
        if files:
            records += f" UNION ALL BY NAME FROM {parquet(files)}"
        chosen = ", ".join(f"CAST({name} AS {type_}) AS {name}" for name, type_ in columns.items())
        execute(self._db, f"CREATE VIEW {view} AS SELECT {chosen} FROM ({records})")

    def _counts(self, view: str) -> list[tuple[datetime, int]]:
        return execute(self._db, f"SELECT date_trunc('hour', event_time), count(*) FROM {view} GROUP BY 1")

    def _place_outcomes(self) -> None:
        """A table of the new outcomes with the hour of their decision; null: the decision is not known."""
        ((since,),) = execute(self._db, f"SELECT min(event_time) - INTERVAL {_KEEP_DAYS} DAY FROM new_outcome")
        stored = [] if since is None else [f for f in hourly(self._out, "decision") if _hour_of(f) >= since]
        sources = ["SELECT decision_id, date_trunc('hour', event_time) AS hour FROM new_decision"]
        if stored:
            sources.append(f"SELECT decision_id, date_trunc('hour', event_time) AS hour FROM {parquet(stored)}")
        # Of a decision and its withdrawal, which may lie in two hours, the outcome goes to the first.
        execute(
            self._db,
            f"""CREATE TEMP TABLE placed AS
            SELECT new_outcome.*, place.hour FROM new_outcome LEFT JOIN (
                SELECT decision_id, min(hour) AS hour FROM ({" UNION ALL ".join(sources)})
                WHERE decision_id IN (SELECT decision_id FROM new_outcome) GROUP BY 1
            ) AS place USING (decision_id)""",
        )

    def _merge(self, kind: Kind, hour: datetime, records: str) -> None:
        """Write an hour anew: what is there, and new records; of each id the one that counts."""
        target = self._out / f"{kind}s" / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}" / PART
        relation = records
        if target.exists():
            relation = f"({records} UNION ALL BY NAME FROM {parquet([target])})"
        columns = ", ".join(sql_columns(kind))
        query = f"SELECT {columns} FROM ({self._once(kind, relation)})"
        with replacing(target, durable=True) as unfinished:
            execute(self._db, f"COPY ({query}) TO {text(unfinished)} (FORMAT parquet, COMPRESSION zstd)")

    def _once(self, kind: Kind, relation: str) -> str:
        """Sorting whole records is slow: it is left out where no id comes twice."""
        ((rows, ids),) = execute(self._db, f"SELECT count(*), count(DISTINCT {ID_FIELD[kind]}) FROM {relation}")
        if rows == ids and kind == "outcome":
            return f"FROM {relation}"
        return one_record_each(kind, relation)

    def _keep_unknown(self) -> int:
        """Outcomes that came before their decision did, or without it, until nobody can expect it any more."""
        newest = "(SELECT max(event_time) FROM placed)"
        rows = f"""SELECT * EXCLUDE (hour) FROM placed
            WHERE hour IS NULL AND event_time >= {newest} - INTERVAL {_KEEP_DAYS} DAY"""
        with replacing(self._out / _UNKNOWN) as unfinished:
            execute(
                self._db, f"COPY ({one_record_each('outcome', f'({rows})')}) TO {text(unfinished)} (FORMAT parquet)"
            )
        return self._count([self._out / _UNKNOWN])

    def _rows(self, kind: Kind, hours: set[datetime]) -> int:
        return self._count([file for file in hourly(self._out, kind) if _hour_of(file) in hours])

    def _count(self, files: list[Path]) -> int:
        return sum(execute(self._db, f"SELECT count(*) FROM {parquet([file])}")[0][0] for file in files)


def _files(log: Path, kind: Kind) -> list[Path]:
    exported = log.glob(f"**/{kind}s.parquet")
    shipped = log.glob(f"**/{kind}s/date=*/hour=*/*.parquet")
    return sorted({*exported, *shipped})


def _mark(file: Path) -> list[int] | None:
    """What changes when a file is replaced; None if it is gone: an export removes what it supersedes."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _complete(db: duckdb.DuckDBPyConnection, file: Path) -> bool:
    """Whether a file can be read to its end; one that is cut off has no footer."""
    import duckdb

    try:
        execute(db, f"SELECT count(*) FROM {parquet([file])}")
    except duckdb.Error:
        return False
    return True


def _read_before(store: Path) -> dict[str, list[int]]:
    """Files that earlier runs have read; if that is lost, all are read again, which changes nothing."""
    try:
        before = json.loads((store / _READ).read_text())
    except (OSError, ValueError):
        return {}
    return before if isinstance(before, dict) else {}


def _hour_of(file: Path) -> datetime:
    date, hour = file.parent.parent.name.removeprefix("date="), file.parent.name.removeprefix("hour=")
    return datetime.fromisoformat(f"{date}T{hour}:00:00+00:00")


def _literal(hour: datetime) -> str:
    return f"TIMESTAMPTZ '{hour.isoformat()}'"


@contextmanager
def _alone(store: Path) -> Iterator[None]:
    with (store / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LogError(f"{store}: another run is collecting into this folder; wait until it has finished") from None
        yield
