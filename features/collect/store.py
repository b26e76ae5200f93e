"""Stores decisions and their outcomes by the hour of the decision; each run adds what the decision log has gained.

    collect("decision_log", "collected")
    collect_again("decision_log", "collected", Hours.named("2026-11-25T20:00Z", "2026-11-26T04:00Z"))

    collected/decisions/date=2026-11-25/hour=20/part.parquet     one row a decision: the fields of its record
    collected/outcomes/date=2026-11-25/hour=20/part.parquet      one row an outcome, in the hour of its decision
    collected/unknown.parquet                                    outcomes whose decision was not seen yet
    collected/read.json                                          files of the decision log that have been read

The decision log loses old records; this folder keeps everything. An hour is rewritten only if it gained records, whole
and in one step. After a killed run the next one reads the same files again: a record that is stored already changes
nothing. Hours that the store has lost, or whose files were mended without a new size or time, are collected again from
all files. What was forgotten (`mtorl.log.forgotten`) is not collected again.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pyarrow.parquet as pq

from features.collect.database import Database, open_database
from features.collect.log_files import COLLECTED, NewFiles, files_of, mark_of
from features.collect.sql import instant
from mtorl.log.forgotten import Forgotten
from mtorl.log.records import ID_FIELD, Kind, place_among_copies, sql_columns
from mtorl.log.touchpoints import LogError
from mtorl.runtime import progress
from mtorl.runtime.locks import locked

HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Hours:
    """Hours that begin in a period, from the beginning of the first to the end of the last."""

    since: datetime
    until: datetime

    @classmethod
    def named(cls, since: str, until: str) -> Hours:
        """The hours that overlap a period, given as ISO times (UTC without a zone); `until` is exclusive."""
        first, last = (_time(name, text) for name, text in (("since", since), ("until", until)))
        if first >= last:
            raise LogError(f"since {since} is not before until {until}: nothing lies between them")
        begun = last.replace(minute=0, second=0, microsecond=0)
        return cls(first.replace(minute=0, second=0, microsecond=0), begun if begun == last else begun + HOUR)

    def __contains__(self, hour: datetime) -> bool:
        return self.since <= hour < self.until


def _time(name: str, text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise LogError(f"{name}: {text!r} is not an ISO time such as 2026-01-31T12:00:00Z") from None


PART = "part.parquet"
_UNKNOWN, _LOCK = "unknown.parquet", ".lock"
_KEEP_DAYS = 35  # how long after its decision an outcome is still looked up
_ATTEMPTS = 3
_AT_ONCE = 2  # queries side by side
_T = TypeVar("_T")


@dataclass(frozen=True)
class Collected:
    """Counts of a run; `str()` of it is a summary for people."""

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


def collect(decision_log: str | Path, store: str | Path, engine: str = "") -> Collected:
    """Bring a store up to date, and make it if it does not exist; DuckDB and Spark make the same store.

    At any depth of the decision log lie decisions.parquet and outcomes.parquet of exports, or the hourly folders of a
    sink. LogError: there is none, a file of it can't be read, or another run is at work on this store.
    """
    return _collect(decision_log, store, engine, None)


def collect_again(decision_log: str | Path, store: str | Path, hours: Hours) -> Collected:
    """Collect some hours from the whole decision log, also from files that were read before.

    Only hours that change are written; the next `collect` reads the same files as without this. Records that the log
    has lost stay. A run that is killed can be repeated.
    """
    return _collect(decision_log, store, "", hours)


def _collect(decision_log: str | Path, store: str | Path, engine: str, hours: Hours | None) -> Collected:
    log, out = Path(decision_log), Path(store)
    if not holds_decisions(log) and not (out / "decisions").is_dir():
        raise LogError(
            f"{log}: no decisions.parquet in this folder or below it; a run of `mtorl run` leaves it in decision_log, "
            "and on a cluster the container `export` beside each router"
        )
    out.mkdir(parents=True, exist_ok=True)
    with alone(out):
        for attempt in range(_ATTEMPTS):
            with open_database(engine) as db:
                try:
                    # An export removes what it supersedes, perhaps between the look at a file and reading it; or a file
                    # is damaged, and then the second look finds it.
                    return _collect_once(db, log, out, hours, whole=attempt > 0)
                except db.failures as error:
                    if attempt == _ATTEMPTS - 1:
                        why = str(error).partition("\n")[0]  # Spark goes on with its plan
                        raise LogError(f"{log}: can't be read; nothing is lost, try again: {why}") from error
        raise AssertionError


def _collect_once(db: Database, log: Path, out: Path, hours: Hours | None, whole: bool) -> Collected:
    files = NewFiles(db, log, out, whole, again=hours is not None)
    run = _Run(db, out, files.by_kind, hours)
    decisions, outcomes = run.write()
    unknown = run.unknown()
    if hours is None:
        files.remember()
    return Collected(decisions, outcomes, len(run.written), unknown, tuple(files.unreadable))


def holds_decisions(decision_log: str | Path) -> bool:
    """Whether a folder is a decision log, or holds some."""
    return bool(files_of(Path(decision_log), "decision"))


def digest_of(store: str | Path) -> str:
    """A digest that changes with the content of a store; "" if it holds no decisions."""
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
    """Adds new files to a store, in the hours `only` or in all."""

    def __init__(self, db: Database, out: Path, new: dict[Kind, list[Path]], only: Hours | None = None) -> None:
        self._db = db
        self._out = out
        self._only = only
        forgotten = Forgotten.of(out)
        self._left_out = {kind: forgotten.sql(kind) for kind in COLLECTED}
        self._files = self._by_hour(new["decision"])
        self._waiting = [out / _UNKNOWN] if (out / _UNKNOWN).exists() else []
        self._place_outcomes(new, self._waiting)
        placed = db.rows("SELECT DISTINCT hour FROM placed WHERE hour IS NOT NULL")
        self._placed = {hour for (hour,) in placed if only is None or hour in only}
        self.written: set[datetime] = set()

    @property
    def _hours(self) -> list[datetime]:
        return sorted({*self._files, *self._placed})

    def write(self) -> tuple[int, int]:
        """Write the hours that gained something; returns the numbers of new decisions and outcomes."""
        added = [0, 0]
        done = 0
        hours_to_write = self._hours
        parts = _parts(hours_to_write, self._db.at_once)
        with ThreadPoolExecutor(_AT_ONCE) as threads:  # the hours of a log are many, and each is small
            for hours, (decisions, outcomes) in zip(parts, threads.map(self._write_hours, parts), strict=True):
                added[0] += decisions
                added[1] += outcomes
                done += len(hours)
                progress.report(done, len(hours_to_write), f"{done} of {len(hours_to_write)} hours")
        return added[0], added[1]

    def unknown(self) -> int:
        """Keep the outcomes whose decision is not known, for `_KEEP_DAYS`."""
        if self._only is not None:  # those that wait for other hours go on waiting
            return self._still_waiting(self._only)
        newest = "least((SELECT max(event_time) FROM placed), now())"  # a clock that was ahead ends no waiting
        rows = f"""SELECT * FROM placed
            WHERE hour IS NULL AND event_time >= {newest} - INTERVAL {_KEEP_DAYS} DAY"""
        self._db.write(one_of_each("outcome", f"({rows})"), self._out / _UNKNOWN)
        return _count(self._out / _UNKNOWN)

    def _still_waiting(self, only: Hours) -> int:
        """Drop the outcomes that now lie beside their decision, and no others."""
        there = f"hour >= {instant(only.since)} AND hour < {instant(only.until)}"
        rows = f"""SELECT {", ".join(sql_columns("outcome"))} FROM {self._db.records("outcome", self._waiting)}
            WHERE event_id NOT IN (SELECT event_id FROM placed WHERE {there})"""
        self._db.write(rows, self._out / _UNKNOWN)
        return _count(self._out / _UNKNOWN)

    def _write_hours(self, hours: Sequence[datetime]) -> tuple[int, int]:
        decisions = outcomes = 0
        since, until = hours[0], hours[-1]
        with self._db.beside() as db:
            # Outcomes first: a decision that is there has what was known of it.
            if placed := [hour for hour in hours if hour in self._placed]:
                rows = f"(SELECT * FROM placed WHERE hour BETWEEN {instant(since)} AND {instant(until)})"
                outcomes = self._merge(db, "outcome", placed, rows)
            if decided := [hour for hour in hours if hour in self._files]:
                files = sorted({file for hour in decided for file in self._files[hour]})
                rows = f"""(SELECT *, date_trunc('hour', event_time) AS hour FROM {self._wanted("decision", files)}
                    WHERE event_time >= {instant(since)} AND event_time < {instant(until + HOUR)})"""
                decisions = self._merge(db, "decision", decided, rows)
        return decisions, outcomes

    def _merge(self, db: Database, kind: Kind, hours: Sequence[datetime], new: str) -> int:
        """Rewrite hours with the record that counts for each id; returns the number of new ids."""
        files = {hour: self._out / f"{kind}s" / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}" / PART for hour in hours}
        columns = ", ".join((*sql_columns(kind), "hour"))
        stored = [file for file in files.values() if file.exists()]
        relation = f"SELECT {columns} FROM {new}"
        if stored:
            relation += f" UNION ALL SELECT {columns} FROM {db.records(kind, stored, by_hour=True)}"
        counts = f"SELECT count(*) AS copies FROM ({relation}) AS record GROUP BY hour, {ID_FIELD[kind]}"
        ((rows, ids),) = db.rows(f"SELECT sum(copies), count(*) FROM ({counts}) AS counted")
        added = int(ids) - sum(map(_count, stored))
        # Sorting whole records is slow, and nearly always no id comes twice.
        merged = relation if rows == ids else one_of_each(kind, f"({relation})", "hour")
        if self._only is not None:
            files = self._changed(db, kind, merged, files)
        if files:
            db.write_hours(
                f"SELECT * FROM ({merged}) AS record WHERE hour IN ({', '.join(map(instant, files))})", files
            )
        self.written |= files.keys()
        return added

    def _changed(self, db: Database, kind: Kind, merged: str, files: dict[datetime, Path]) -> dict[datetime, Path]:
        """Those of the hours whose content would change: a rewritten file looks new to every reader."""
        columns = ", ".join((*sql_columns(kind), "hour"))
        stored = [file for file in files.values() if file.exists()]
        there = f"SELECT {columns} FROM {db.records(kind, stored, by_hour=True)}"
        differs = f"SELECT {columns} FROM ({merged}) AS record EXCEPT {there}"
        changed = {hour for (hour,) in db.rows(f"SELECT DISTINCT hour FROM ({differs}) AS record")}
        return {hour: file for hour, file in files.items() if hour in changed}

    def _place_outcomes(self, new: dict[Kind, list[Path]], waiting: list[Path]) -> None:
        """Makes a table of the new outcomes with the hour of their decision; null if the decision is not known.

        Outcomes that waited for their decision were looked up among the stored ones when they came.
        """
        came = self._wanted("outcome", new["outcome"])
        ((since,),) = self._db.rows(f"SELECT min(event_time) - INTERVAL {_KEEP_DAYS} DAY FROM {came}")
        stored = [] if since is None else [file for file in hourly(self._out, "decision") if _hour_of(file) >= since]
        # Of a decision and its withdrawal, which may lie in two hours, the outcome goes to the first.
        self._db.keep(
            "placed",
            f"""WITH outcome AS (
                SELECT came.* FROM {self._wanted("outcome", [*new["outcome"], *waiting])} AS came LEFT JOIN (
                    SELECT DISTINCT decision_id, true AS gone FROM {self._db.records("decision", new["decision"])}
                    WHERE {self._left_out["decision"]})
                AS forgotten USING (decision_id) WHERE gone IS NULL
            )
            SELECT outcome.*, place.hour FROM outcome LEFT JOIN (
                SELECT decision_id, date_trunc('hour', min(event_time)) AS hour
                FROM {self._db.records("decision", [*new["decision"], *stored])}
                WHERE decision_id IN (SELECT decision_id FROM outcome) GROUP BY decision_id
            ) AS place USING (decision_id)""",
        )

    def _by_hour(self, files: Sequence[Path]) -> dict[datetime, list[Path]]:
        """Which files may hold decisions of an hour: a file covers neighbouring hours."""
        found: dict[datetime, list[Path]] = defaultdict(list)
        for some in _parts(files, self._db.at_once):
            times = f"SELECT DISTINCT date_trunc('hour', event_time) AS hour FROM {self._wanted('decision', some)}"
            for (hour,) in self._db.rows(times):
                if self._only is None or hour in self._only:
                    found[hour] += some
        return dict(found)

    def _wanted(self, kind: Kind, files: Sequence[Path]) -> str:
        return f"(SELECT * FROM {self._db.records(kind, files)} WHERE NOT {self._left_out[kind]})"


def one_of_each(kind: Kind, records: str, *beside: str) -> str:
    """SQL: the record that counts among those with one id and equal values in the named columns."""
    columns = ", ".join((*sql_columns(kind), *beside))
    return f"""SELECT {columns} FROM (
        SELECT {columns}, {place_among_copies(kind, *beside)} AS place FROM {records} AS record) AS record
        WHERE place = 1"""


def _parts(values: Sequence[_T], size: int | None) -> list[Sequence[_T]]:
    """Neighbours together, so many at most; None: all."""
    size = size or max(len(values), 1)
    return [values[start : start + size] for start in range(0, len(values), size)]


def _count(file: Path) -> int:
    return int(pq.read_metadata(file).num_rows)


def _hour_of(file: Path) -> datetime:
    date, hour = file.parent.parent.name.removeprefix("date="), file.parent.name.removeprefix("hour=")
    return datetime.fromisoformat(f"{date}T{hour}:00:00+00:00")


@contextmanager
def alone(store: Path) -> Iterator[None]:
    """Lock a store against other runs; raises a `LogError` if another run is at work on it."""
    busy = f"{store}: another run is collecting or forgetting something here; wait until it has finished"
    with locked(store / _LOCK, LogError(busy)):
        yield
