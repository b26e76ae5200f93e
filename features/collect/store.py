"""Collected decisions and their outcomes, by the hour of the decision; each run adds what the decision log has gained.

    collect("decision_log", "collected")

    collected/decisions/date=2026-11-25/hour=20/part.parquet     one row a decision: the fields of its record
    collected/outcomes/date=2026-11-25/hour=20/part.parquet      one row an outcome, beside its decision
    collected/unknown.parquet                                    outcomes whose decision was not seen yet
    collected/read.json                                          which files of the decision log have been read

The decision log is what routers export or ship, in any number of folders (`mtorl.log.records` defines the records); it
keeps a week, and this folder keeps everything. An hour is written anew only if a decision or an outcome of it came in,
whole and in one step. A run that is killed leaves hours that are complete, and the next one reads the same files again:
a record that is there already changes nothing. What was forgotten (`mtorl.log.forgotten`) is not collected again.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from features.collect.database import execute, limited_database, parquet, records, text
from features.collect.log_files import COLLECTED, NewFiles, files_of, mark_of
from mtorl.log.forgotten import Forgotten
from mtorl.log.records import ID_FIELD, Kind, each_record, one_record_each, sql_columns
from mtorl.log.touchpoints import LogError
from mtorl.runtime import progress
from mtorl.runtime.files import replacing

if TYPE_CHECKING:
    import duckdb

PART = "part.parquet"
_UNKNOWN, _LOCK = "unknown.parquet", ".lock"
_KEEP_DAYS = 35  # how long after its decision an outcome is still looked up
_ATTEMPTS = 3
_AT_ONCE = 2  # hours that are written side by side
_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Collected:
    """What a run has added; `str()` of it is a summary for people."""

    decisions: int
    outcomes: int
    hours: int  # that were written anew
    unknown: int  # outcomes that wait for their decision
    unreadable: tuple[str, ...]  # files that are cut off or damaged; the next run tries them again

    def __str__(self) -> str:
        hours = "1 hour" if self.hours == 1 else f"{self.hours:,} hours"
        lines = [f"{self.decisions:,} decisions and {self.outcomes:,} outcomes more, of {hours}"]
        if self.unknown:
            lines.append(f"{self.unknown:,} outcomes wait for their decision")
        lines += [f"cut off or damaged, and left for the next time: {file}" for file in self.unreadable]
        return "\n".join(lines)


def collect(decision_log: str | Path, store: str | Path) -> Collected:
    """Bring a store up to date.

    Args:
        decision_log: Folder, at any depth of which lie decisions.parquet and outcomes.parquet of exports, or the hourly
            folders of a sink.
        store: Made if it does not exist.

    Raises:
        LogError: There is no decision log, a file of it can't be read, or another run is at work on this store.
    """
    import duckdb

    log, out = Path(decision_log), Path(store)
    if not holds_decisions(log) and not (out / "decisions").is_dir():
        raise LogError(
            f"{log}: no decisions.parquet in this folder or below it; a run of `mtorl run` leaves it in decision_log, "
            "and on a cluster the container `export` beside each router"
        )
    out.mkdir(parents=True, exist_ok=True)
    with alone(out):
        for attempt in range(_ATTEMPTS):
            try:
                # An export removes what it supersedes, perhaps between the look at a file and reading it; or a file is
                # damaged, and then the second look finds it.
                return _collect_once(log, out, whole=attempt > 0)
            except duckdb.Error as error:
                if attempt == _ATTEMPTS - 1:
                    raise LogError(f"{log}: can't be read; nothing is lost, try again: {error}") from error
        raise AssertionError


def _collect_once(log: Path, out: Path, whole: bool) -> Collected:
    with limited_database() as (db, _):
        files = NewFiles(db, log, out, whole)
        run = _Run(db, out, files.by_kind)
        decisions, outcomes = run.write()
        unknown = run.unknown()
        files.remember()
        return Collected(decisions, outcomes, run.touched, unknown, tuple(files.unreadable))


def holds_decisions(decision_log: str | Path) -> bool:
    """Whether a folder is a decision log, or holds some."""
    return bool(files_of(Path(decision_log), "decision"))


def digest_of(store: str | Path) -> str:
    """A digest that changes with what a store holds; "" if it holds no decisions."""
    digest = hashlib.sha256()
    for kind in COLLECTED:
        for file in hourly(store, kind):
            digest.update(f"{file.relative_to(store)}:{mark_of(file)}".encode())
    return digest.hexdigest() if hourly(store, "decision") else ""


def hourly(store: str | Path, kind: Kind) -> list[Path]:
    """Files of a store that hold all records of a kind, oldest hour first."""
    return sorted(Path(store, f"{kind}s").glob(f"date=*/hour=*/{PART}"))


def is_store(folder: Path) -> bool:
    """Whether a folder is that of a store."""
    return (folder / _LOCK).exists() and (folder / _UNKNOWN).exists()


class _Run:
    """Adds new files to a store.

    Args:
        db: A database of its own.
        out: The store.
        new: Files by kind.

    Attributes:
        touched: How many hours it writes.
    """

    def __init__(self, db: duckdb.DuckDBPyConnection, out: Path, new: dict[Kind, list[Path]]) -> None:
        self._db = db
        self._out = out
        forgotten = Forgotten.of(out)
        self._left_out = {kind: forgotten.sql(kind) for kind in COLLECTED}
        self._files = self._by_hour(new["decision"])
        waiting = [out / _UNKNOWN] if (out / _UNKNOWN).exists() else []
        self._place_outcomes(new, waiting)
        placed = execute(db, "SELECT DISTINCT hour FROM placed WHERE hour IS NOT NULL")
        self._placed = {hour for (hour,) in placed}
        self.touched = len(self._hours)

    @property
    def _hours(self) -> list[datetime]:
        return sorted({*self._files, *self._placed})

    def write(self) -> tuple[int, int]:
        """Write the hours that gained something; returns how many decisions and outcomes there are more."""
        added = [0, 0]
        with ThreadPoolExecutor(_AT_ONCE) as threads:  # the hours of a log are many, and each is small
            for done, (decisions, outcomes) in enumerate(threads.map(self._write_hour, self._hours), 1):
                added[0] += decisions
                added[1] += outcomes
                progress.report(done, self.touched, f"{done} of {self.touched} hours")
        return added[0], added[1]

    def unknown(self) -> int:
        """Keep the outcomes that came before their decision did, or without it, until nobody expects it any more."""
        newest = "(SELECT max(event_time) FROM placed)"
        rows = f"""SELECT * EXCLUDE (hour) FROM placed
            WHERE hour IS NULL AND event_time >= {newest} - INTERVAL {_KEEP_DAYS} DAY"""
        with replacing(self._out / _UNKNOWN) as unfinished:
            query = one_record_each("outcome", f"({rows})")
            execute(self._db, f"COPY ({query}) TO {text(unfinished)} (FORMAT parquet)")
        return _count(self._db, self._out / _UNKNOWN)

    def _write_hour(self, hour: datetime) -> tuple[int, int]:
        decisions = outcomes = 0
        with self._db.cursor() as db:
            execute(db, "SET TimeZone = 'UTC'")
            # Outcomes first: a decision that is there has what was known of it.
            if hour in self._placed:
                rows = f"(SELECT * EXCLUDE (hour) FROM placed WHERE hour = {_literal(hour)})"
                outcomes = self._merge(db, "outcome", hour, rows)
            if hour in self._files:
                within = f"event_time >= {_literal(hour)} AND event_time < {_literal(hour + _HOUR)}"
                rows = f"(FROM {self._wanted('decision', self._files[hour])} WHERE {within})"
                decisions = self._merge(db, "decision", hour, rows)
        return decisions, outcomes

    def _merge(self, db: duckdb.DuckDBPyConnection, kind: Kind, hour: datetime, new: str) -> int:
        """Write an hour anew, of each id the record that counts; returns how many more there are."""
        target = self._out / f"{kind}s" / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}" / PART
        before, relation = 0, new
        if target.exists():
            before, relation = _count(db, target), f"({new} UNION ALL BY NAME FROM {parquet([target])})"
        ((rows, ids),) = execute(db, f"SELECT count(*), count(DISTINCT {ID_FIELD[kind]}) FROM {relation}")
        # Sorting whole records is slow, and nearly always no id comes twice.
        query = each_record(kind, relation) if rows == ids else one_record_each(kind, relation)
        with replacing(target, durable=True) as unfinished:
            columns = ", ".join(sql_columns(kind))
            copied = f"COPY (SELECT {columns} FROM ({query})) TO {text(unfinished)}"
            execute(db, f"{copied} (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)")
        return int(ids) - before

    def _place_outcomes(self, new: dict[Kind, list[Path]], waiting: list[Path]) -> None:
        """A table of the new outcomes with the hour of their decision; null: the decision is not known.

        Those that have waited for their decision were looked up among the stored ones when they came.
        """
        came = self._wanted("outcome", new["outcome"])
        ((since,),) = execute(self._db, f"SELECT min(event_time) - INTERVAL {_KEEP_DAYS} DAY FROM {came}")
        stored = [] if since is None else [file for file in hourly(self._out, "decision") if _hour_of(file) >= since]
        # Of a decision and its withdrawal, which may lie in two hours, the outcome goes to the first.
        execute(
            self._db,
            f"""CREATE TABLE placed AS WITH outcome AS (
                FROM {self._wanted("outcome", [*new["outcome"], *waiting])} WHERE decision_id NOT IN (
                    SELECT decision_id FROM {records("decision", new["decision"])} WHERE {self._left_out["decision"]}
                )
            )
            SELECT outcome.*, place.hour FROM outcome LEFT JOIN (
                SELECT decision_id, date_trunc('hour', min(event_time)) AS hour
                FROM {records("decision", [*new["decision"], *stored])}
                WHERE decision_id IN (SELECT decision_id FROM outcome) GROUP BY decision_id
            ) AS place USING (decision_id)""",
        )

    def _by_hour(self, files: Sequence[Path]) -> dict[datetime, list[Path]]:
        """Which files may hold decisions of an hour: a file covers neighbouring hours."""
        found: dict[datetime, list[Path]] = defaultdict(list)
        for file in files:
            times = f"SELECT DISTINCT date_trunc('hour', event_time) FROM {self._wanted('decision', [file])}"
            for (hour,) in execute(self._db, times):
                found[hour].append(file)
        return dict(found)

    def _wanted(self, kind: Kind, files: Sequence[Path]) -> str:
        """The records in some files, without those that were forgotten."""
        return f"(FROM {records(kind, files)} WHERE NOT {self._left_out[kind]})"


def _count(db: duckdb.DuckDBPyConnection, file: Path) -> int:
    ((rows,),) = execute(db, f"SELECT count(*) FROM {parquet([file])}")
    return int(rows)


def _hour_of(file: Path) -> datetime:
    date, hour = file.parent.parent.name.removeprefix("date="), file.parent.name.removeprefix("hour=")
    return datetime.fromisoformat(f"{date}T{hour}:00:00+00:00")


def _literal(hour: datetime) -> str:
    return f"TIMESTAMPTZ '{hour.isoformat()}'"


@contextmanager
def alone(store: Path) -> Iterator[None]:
    """Let nobody else write to a store meanwhile.

    Raises:
        LogError: Another run is at work on it.
    """
    with (store / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LogError(
                f"{store}: another run is collecting into this folder, or forgets something in it; "
                "wait until it has finished"
            ) from None
        yield
