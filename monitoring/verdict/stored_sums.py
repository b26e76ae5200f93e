"""Keeps the sums of closed hours in the lake, so that a look at an experiment reduces new hours alone.

    add_up_hours(db, log, experiment, kinds)        # the tables of `hourly_sums.py`, over all hours

    sums/EXPERIMENT-SETTINGS/date=2026-11-25/hour=20/SOURCES-NAME.parquet   an hour's four tables

`SETTINGS` is a digest of what the reduction depends on, and `SOURCES` one of the names of the files that it has read,
which never change. So a stored file is either right or has another name: an hour that gains records is reduced again.

- Outcomes of an hour are read once the hour may count (`outcome_hours`): younger hours do not gain a version with each
  outcome that comes.
- Days whose outcomes have all come are one file each.
- Hours that gain decisions now, and those that have just begun to count, are reduced with what has arrived at each
  look. An outcome that arrives later than that counts from the next compaction on.
- Segments, replays with weights, and periods with bounds are reduced anew each time.

A lake that can't be written is read as well; each look then reduces all hours.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from pyarrow.fs import copy_files

from monitoring.decision_log import DecisionLog, Period
from monitoring.verdict import hourly_sums
from monitoring.verdict.hourly_sums import budget_classes, quoted, reduce_hours, sql_text
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.metrics import DECISION_COLUMNS
from mtorl.log.decision_ids import TIME
from mtorl.log.derived import Derived
from mtorl.log.lake import HOUR, LakeFile, instant, sql_of
from mtorl.log.records import MODEL_NAME, place_among_copies
from mtorl.log.touchpoints import LogError

if TYPE_CHECKING:
    import duckdb

_DAY = timedelta(days=1)
_CLOCKS = timedelta(minutes=10)  # by which the times of a decision's id and its record may differ
_COMPACTED = timedelta(hours=2, minutes=30)  # in which an hour is closed, and the outcomes that came in it are added
_LAST_OUTCOMES = timedelta(days=9)  # of a day: few come later, and each hour is one file by then
_PART_BYTES = 256 << 20  # of files of decisions that are reduced at one time
_DAY_BYTES = 1 << 30  # a day with more is kept by hour
_TRANSFERS = 16  # at one time
_TABLES = {
    "cell": "cell WHERE {}",
    "user_sum": """(
        SELECT unit, cell, segment, sum(COLUMNS(* EXCLUDE (unit, cell, segment)))
        FROM user_sum SEMI JOIN (FROM cell WHERE {}) USING (cell) GROUP BY unit, cell, segment)""",
    "named": "(SELECT unit, since, since AS hour FROM named) WHERE {}",
    "other": "other WHERE {}",
}
"""Tables of `reduce_hours`, with the SQL of an hour's rows."""
_log = logging.getLogger(__name__)


class _Block(NamedTuple):
    """An hour, or a day, and the files of its records."""

    since: datetime
    until: datetime
    decisions: tuple[LakeFile, ...]
    outcomes: tuple[LakeFile, ...]

    @property
    def sources(self) -> list[str]:
        return [file.name for file in (*self.decisions, *self.outcomes)]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.decisions)


def add_up_hours(
    db: duckdb.DuckDBPyConnection, log: DecisionLog, experiment: Experiment, kinds: Iterable[str], segment: str = ""
) -> None:
    """Make the tables of `reduce_hours`, of which `named` has each user once."""
    kinds = tuple(kinds)
    if segment or log.weights is not None or log.read_as or log.period != Period():
        reduce_hours(db, log, experiment, kinds, segment)
    else:
        with TemporaryDirectory(prefix="mtorl-sums-") as scratch:
            _Sums(log, experiment, kinds, Path(scratch)).load(db)
    db.execute("CREATE OR REPLACE TABLE named AS SELECT unit, min(since) AS since FROM named GROUP BY unit")


@dataclass
class _Sums:
    """The sums of an experiment, in the lake and, for one look, in a local folder."""

    log: DecisionLog
    experiment: Experiment
    kinds: tuple[str, ...]
    scratch: Path
    _columns: dict[str, dict[str, str]] = field(default_factory=dict)  # of each table, with their types
    _can_store: bool = True
    _stored: list[str] = field(default_factory=list)

    def load(self, db: duckdb.DuckDBPyConnection) -> None:
        """Make the tables, and store what the lake lacks."""
        lake = self.log.lake
        recent, blocks = self._blocks(db)
        derived, forgotten = Derived(lake, "sums", self.experiment.name, [self._settings()]), lake.forgotten()
        there = {block: derived.files(block.since, block.sources) for block in blocks}
        known = [file for files in there.values() for file in files]
        for part in _parts([block for block in blocks if not there[block]]):
            self._reduce(part, derived)
        self._reduce([recent])
        with ThreadPoolExecutor(_TRANSFERS) as pool:
            files = [*pool.map(self._fetch, known), *self.scratch.glob("new-*.parquet")]
        names = ", ".join(sql_text(str(path)) for path in files)
        for table, types in self._columns.items():
            read = ", ".join(f"{quoted(name)}::{type_} AS {quoted(name)}" for name, type_ in types.items())
            rows = f"read_parquet([{names}], hive_partitioning = false) WHERE of_table = '{table}'"
            db.execute(f"CREATE TABLE {table} AS SELECT {read} FROM {rows}")
        if lake.forgotten() != forgotten:  # the next look takes what is left
            for name in self._stored:
                with suppress(FileNotFoundError):
                    lake.files.delete_file(name)
        if self._can_store:
            derived.supersede(known)

    def _settings(self) -> str:
        """All that the tables depend on, apart from records."""
        import duckdb

        settings = [
            self.experiment.name,
            self.experiment.salt,
            self.experiment.metrics.outcome_hours,
            self.kinds,
            budget_classes(self.experiment),
            [Path(name).read_text(encoding="utf-8") for name in (hourly_sums.__file__, __file__)],
            [DECISION_COLUMNS, TIME, MODEL_NAME, place_among_copies("decision"), place_among_copies("outcome")],
            duckdb.__version__,  # its `hash` may be another one
        ]
        return json.dumps(settings)

    def _blocks(self, db: duckdb.DuckDBPyConnection) -> tuple[_Block, list[_Block]]:
        """What is reduced with the arrived records, and the other closed hours and days, oldest first."""
        lake = self.log.lake
        arrived, arrived_outcomes = lake.arrived("decision"), lake.arrived("outcome")
        decisions, outcomes = _by_hour(lake.closed("decision")), _by_hour(lake.closed("outcome"))
        newest = max([file.hour for file in arrived] + list(decisions), default=datetime.min.replace(tzinfo=UTC))
        now = min(newest + 2 * HOUR, datetime.now(UTC))  # at most as late as that of `count_decisions`
        hours = self.experiment.metrics.outcome_hours
        matures = timedelta(hours=hours or 0)

        def may_count(hour: datetime) -> bool:
            return hours is None or hour + matures <= now + _CLOCKS

        open_hours = _hours_in(db, arrived)
        if hours is not None:
            open_hours |= {
                hour
                for hour in _hours_in(db, arrived_outcomes)
                if may_count(hour) and hour + HOUR + matures + _COMPACTED > now
            }
        by_day: dict[datetime, list[_Block]] = defaultdict(list)
        for hour, files in sorted(decisions.items()):
            if hour not in open_hours:
                came = tuple(outcomes.get(hour, ())) if may_count(hour) else ()
                by_day[hour.replace(hour=0)].append(_Block(hour, hour + HOUR, tuple(files), came))
        blocks: list[_Block] = []
        for day, of_day in by_day.items():
            whole = _Block(day, day + _DAY, *_files(of_day))
            is_old = day + _DAY + max(matures, _LAST_OUTCOMES) < now
            blocks += [whole] if is_old and whole.size < _DAY_BYTES else of_day
        taken, known = (tuple(file for hour in open_hours for file in of.get(hour, ())) for of in (decisions, outcomes))
        return _Block(datetime.min, datetime.max, taken, known), blocks

    def _reduce(self, blocks: Sequence[_Block], derived: Derived | None = None) -> None:
        """Write the tables of each block to a local file and, if they are to be kept, into the lake."""
        part = self.log.lake.of_files(*_files(blocks), arrived=derived is None)
        with replace(self.log, lake=part).opened("outcome") as db:
            reduce_hours(db, self.log, self.experiment, self.kinds)
            self._columns = {table: _types(db, table) for table in _TABLES}
            for block in blocks:
                path = self.scratch / f"new-{secrets.token_hex(8)}.parquet"
                hours = f"hour >= {instant(block.since)} AND hour < {instant(block.until)}" if derived else "true"
                tables = " UNION ALL BY NAME ".join(
                    f"SELECT '{table}' AS of_table, * FROM {rows.format(hours)}" for table, rows in _TABLES.items()
                )
                db.execute(f"COPY ({tables}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
                # A clock that is ahead: which decision is the newest will be another one.
                ((ahead,),) = db.execute(f"SELECT max(last) > now() FROM cell WHERE {hours}").fetchall()
                if derived and not ahead:
                    self._store(path, derived.name(block.since, block.sources, number=0, of=1))

    def _fetch(self, file: LakeFile) -> Path:
        """A stored file on this machine: each table is read from it."""
        lake = self.log.lake
        if lake.folder is not None:
            return lake.folder / file.name
        path = self.scratch / file.name.replace("/", "-")
        try:
            copy_files(file.name, str(path), source_filesystem=lake.files)
        except FileNotFoundError:
            raise LogError(f"{lake.place}: a file was deleted while it was read; try again") from None
        return path

    def _store(self, path: Path, name: str) -> None:
        if self._can_store:
            try:
                self.log.lake.put(path, name)
                self._stored.append(name)
            except OSError as error:
                _log.warning("%s: each look reduces all hours, since it can store none: %s", self.log.lake.place, error)
                self._can_store = False


def _parts(blocks: Iterable[_Block]) -> Iterator[list[_Block]]:
    """Neighbours together, of about so many bytes."""
    part: list[_Block] = []
    for block in blocks:
        part.append(block)
        if sum(each.size for each in part) >= _PART_BYTES:
            yield part
            part = []
    if part:
        yield part


def _files(blocks: Iterable[_Block]) -> tuple[tuple[LakeFile, ...], tuple[LakeFile, ...]]:
    """The decisions and the outcomes of some blocks."""
    blocks = tuple(blocks)
    decisions = tuple(file for block in blocks for file in block.decisions)
    return decisions, tuple(file for block in blocks for file in block.outcomes)


def _by_hour(files: Iterable[LakeFile]) -> dict[datetime, list[LakeFile]]:
    found: dict[datetime, list[LakeFile]] = defaultdict(list)
    for file in files:
        found[file.hour].append(file)
    return found


def _hours_in(db: duckdb.DuckDBPyConnection, files: Sequence[LakeFile]) -> set[datetime]:
    if not files:
        return set()
    rows = db.execute(f"SELECT DISTINCT hour FROM {sql_of(files)}").fetchall()
    return {hour.astimezone(UTC) for (hour,) in rows}


def _types(db: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    return {name: type_ for name, type_, *_ in db.execute(f"DESCRIBE {table}").fetchall()}
