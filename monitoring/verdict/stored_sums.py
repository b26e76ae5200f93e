"""Stores the sums of closed hours in the lake, so that a look at an experiment reduces only new hours.

    with counted_users(db, log, experiment, kinds) as counted:  # tables of `hourly_sums.py` and `counted_decisions.py`

    sums/EXPERIMENT-SETTINGS/date=2026-11-25/hour=20/SOURCES-TOKEN-0-1.parquet          an hour's tables
    sums/EXPERIMENT-SETTINGS/date=2026-11-25/hour=20/SOURCES-TOKEN-past-1.parquet       tables of all hours until then
    sums/EXPERIMENT-SETTINGS/date=2026-11-25/hour=20/SOURCES-TOKEN-pastusers-1.parquet  their users, one row each
    sums/EXPERIMENT-SETTINGS/date=2026-11-20/hour=11/SOURCES-TOKEN-pastcovariates-1.parquet  covariates of the users

`SETTINGS` is a digest of the settings of the reduction, and `SOURCES` of the names of the files that it has read, which
never change. So a stored file never becomes invalid: an hour that gains records is reduced again under another name.

- The outcomes of an hour are read when the hour is closed, and again once its decisions may count (`outcome_hours`).
  Outcomes that arrive after that count as late. They are read one, three and eight days later, because each compaction
  adds some. If a router uploads outcomes late, the next look reads them at once: the names of their files show the
  delay (`features/collect/compact.py`).
- The *past* consists of all days on which every decision may count. In the past's tables, a user has only one row for
  each stage and arm. So a look reads one row per user, plus the rows of the last days. On a new day, or if other
  decisions of the past count because weights or models have changed, both files of the past are computed again from
  the files of the hours.
- Covariates (`covariates.py`) have a separate file.
- Nothing is stored for hours that still gain decisions, or whose decisions have just begun to count: each look reduces
  these hours again. The same holds for all hours if the lake can't be written, and for segments, replays with weights,
  and bounded periods.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from pyarrow.fs import copy_files

from monitoring.decision_log import DecisionLog, Period
from monitoring.verdict.counted_decisions import CountedDecisions, count_decisions
from monitoring.verdict.covariates import make_covariates, past_ends
from monitoring.verdict.hourly_sums import budget_periods, reduce_hours
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.metrics import DECISION_COLUMNS
from mtorl.log.derived import PAST, Derived
from mtorl.log.lake import HOUR, LakeFile, by_hour, hours_of, in_parts, instant, was_uploaded_late
from mtorl.log.touchpoints import LogError
from mtorl.runtime.sql import sql_name, sql_text

if TYPE_CHECKING:
    import duckdb

VERSION = 3
"""Version of the stored rows. Increase it if this package, or `mtorl.log`, begins to compute other rows from the same
records."""
_DAY = timedelta(days=1)
# Largest expected difference between the time in a decision's id and its `event_time`.
_CLOCKS = timedelta(minutes=10)
# The log files of an hour are compacted within this time, which closes the hour.
_COMPACTED = timedelta(hours=2, minutes=30)
# Late outcomes are read again at these times after the day's decisions began to count.
_LATE = (_DAY, 3 * _DAY, 8 * _DAY)
# `activity` has a row per minute only for the last days of the past.
_RECENT = 8 * _DAY
# Hours are reduced together until their log files have this size.
_PART_BYTES = 256 << 20
# Number of files that are downloaded at the same time.
_TRANSFERS = 16
_TABLES = ("cell", "user_sum", "named", "activity", "spent", "other")
# Hour of a stored file, and names of the files from which it was computed.
_Key = tuple[datetime, tuple[str, ...]]
_log = logging.getLogger(__name__)


class _Hour(NamedTuple):
    """A closed hour, with the log files of its decisions and outcomes."""

    since: datetime
    decisions: tuple[LakeFile, ...]
    outcomes: tuple[LakeFile, ...]
    # Number that shows how often the outcomes of this hour were read (`age` in `_hours`).
    age: int = 0

    @property
    def key(self) -> _Key:
        read = [file for file in self.outcomes if self.age == 0 or (self.age > 0 and was_uploaded_late(file))]
        return self.since, (*(file.name for file in (*self.decisions, *read)), str(self.age))

    @property
    def size(self) -> int:
        return sum(file.size for file in self.decisions)


@contextmanager
def counted_users(
    db: duckdb.DuckDBPyConnection, log: DecisionLog, experiment: Experiment, kinds: Sequence[str], segment: str = ""
) -> Iterator[CountedDecisions]:
    """Create the tables of `reduce_hours` and `count_decisions`, from stored sums if possible."""
    with TemporaryDirectory(prefix="mtorl-sums-") as scratch:
        if segment or log.weights is not None or log.period != Period():
            reduce_hours(db, log, experiment, kinds, segment)
            db.execute(f"CREATE OR REPLACE TABLE named AS {_each_once('named')}")
            if experiment.covariates is not None and not segment:
                own = f"(FROM decision_log WHERE (experiment <> {sql_text(experiment.name)}) IS NOT TRUE)"
                make_covariates(db, log.lake, past_ends(db, experiment, own, "event_time"), kinds)
            yield count_decisions(db, log, experiment)
        else:
            sums = _Sums(db, log, experiment, kinds, Path(scratch))
            try:
                counted = sums.load()
            finally:
                sums.delete_lost()
            yield counted


@dataclass
class _Sums:
    db: duckdb.DuckDBPyConnection
    log: DecisionLog
    experiment: Experiment
    kinds: Sequence[str]
    scratch: Path
    # SQL types by table and column.
    _columns: dict[str, dict[str, str]] = field(default_factory=dict)
    _local: dict[_Key, Path] = field(default_factory=dict)
    # Digest of the table `alike`.
    _alike: str = ""
    _can_store: bool = True
    # Files that this object has stored in the lake.
    _stored: dict[_Key, str] = field(default_factory=dict)

    def load(self) -> CountedDecisions:
        db = self.db
        recent, hours, begins = self._hours()
        for part in in_parts([hour for hour in hours if not self._stored_before(hour.key)], _PART_BYTES):
            self._reduce(part, keep=True)
        self._reduce([recent], keep=False)
        past = [hour.key for hour in hours if hour.since < begins]
        used = [recent.key, *(hour.key for hour in hours if hour.since >= begins)]
        if past:
            used.append(self._of_past(PAST, past, self._tables_of))
        for table in _TABLES:
            rows = self._rows(table, used)
            db.execute(f"CREATE TABLE {table} AS {_each_once(rows) if table == 'named' else f'FROM {rows}'}")
        counted = count_decisions(db, self.log, self.experiment)
        if past and self._find_alike(begins):
            users = self._of_past(f"{PAST}users", past, self._users_of)
            used.append(users)
            db.execute("ALTER TABLE user_sum RENAME TO user_row")
            db.execute(
                f"CREATE VIEW user_sum AS FROM user_row UNION ALL BY NAME FROM {self._rows('user_sum', [users])}"
            )
        if self.experiment.covariates is not None:
            used.append(self._make_covariates(begins))
        if self._can_store:
            self._derived.supersede({file for key in (*past, *used) for file in self._stored_before(key)})
        return counted

    def delete_lost(self) -> None:
        """Delete the new sums if records were deleted meanwhile, because the sums may still contain them."""
        if self._stored and self.log.lake.lost():
            for name in self._stored.values():
                self.log.lake.delete(name)

    @cached_property
    def _derived(self) -> Derived:
        """The stored files for the present settings; other settings have other files."""
        import duckdb

        settings = [
            self.experiment.name,
            self.experiment.salt,
            self.experiment.metrics.outcome_hours,
            self.kinds,
            budget_periods(self.experiment),
            VERSION,
            DECISION_COLUMNS,
            duckdb.__version__,  # its hashes may differ between versions
        ]
        return Derived(self.log.lake, "sums", self.experiment.name, [json.dumps(settings)])

    def _stored_before(self, key: _Key) -> list[LakeFile]:
        return self._derived.files(*key)

    def _hours(self) -> tuple[_Hour, list[_Hour], datetime]:
        """Return all open hours as one, the closed hours from old to new, and the time at which the past ends."""
        lake, hours = self.log.lake, self.experiment.metrics.outcome_hours
        arrived = lake.arrived("decision")
        decisions, outcomes = by_hour(lake.closed("decision")), by_hour(lake.closed("outcome"))
        newest = max([file.hour for file in arrived] + list(decisions), default=datetime.fromtimestamp(0, UTC))
        # Present time, or the end of the newest log files if they are old.
        now = min(newest + 2 * HOUR, datetime.now(UTC))
        matures = timedelta(hours=hours or 0)
        # All records before this time are in closed hours.
        compacted = min([now - _COMPACTED, *(file.hour for file in arrived)])
        begins = (compacted - HOUR - matures).replace(hour=0, minute=0, second=0, microsecond=0)

        def age(hour: datetime) -> int:
            """Return a number that changes when an hour's outcomes must be read again."""
            if hours is not None and hour + matures > now + _CLOCKS:
                return -1
            if hours is None or hour + HOUR + matures > compacted:
                return 0
            return 1 + sum(begins - hour >= late for late in _LATE)

        open_hours = hours_of(self.db, arrived)
        if hours is not None:
            open_hours |= {hour for hour in hours_of(self.db, lake.arrived("outcome")) if age(hour) == 0}
        closed = [
            _Hour(hour, tuple(files), tuple(outcomes.get(hour, ())), age(hour))
            for hour, files in sorted(decisions.items())
            if hour not in open_hours
        ]
        taken, known = (tuple(file for hour in open_hours for file in of.get(hour, ())) for of in (decisions, outcomes))
        # The past ends before the first open hour, because an override in that hour hides the user's later decisions.
        return _Hour(datetime.max, taken, known), closed, min([begins, *open_hours])

    def _reduce(self, hours: Sequence[_Hour], keep: bool) -> None:
        """Compute the tables of some hours, and store each hour in a local file, and with `keep` also in the lake."""
        decisions = [file for hour in hours for file in hour.decisions]
        outcomes = [file for hour in hours for file in hour.outcomes]
        part = self.log.lake.of_files(decisions, outcomes, arrived=not keep)
        with replace(self.log, lake=part).opened("outcome") as db:
            reduce_hours(db, self.log, self.experiment, self.kinds)
            for table in _TABLES:
                self._columns[table] = {name: of for name, of, *_ in db.execute(f"DESCRIBE {table}").fetchall()}
            for hour in hours:
                where = f"WHERE hour = {instant(hour.since)}" if keep else ""
                tables = {table: f"FROM {table} {where}" for table in _TABLES}
                tables["named"] = f"SELECT unit, since FROM (SELECT *, since AS hour FROM named) {where}"
                tables["user_sum"] = _added_up(f"(FROM user_sum {where})")
                # Do not store an hour with decisions dated in the future by a wrong clock.
                ((ahead,),) = db.execute(f"SELECT max(last) > now() FROM cell {where}").fetchall()
                self._write(db, hour.key, _in_one(tables), 0 if keep and not ahead else None)

    def _of_past(self, name: str, hours: Sequence[_Key], rows: Callable[[Sequence[_Key]], str]) -> _Key:
        key = hours[-1][0], (name, *map(str, hours), self._alike)
        if not self._stored_before(key):
            are_stored = all(hour in self._stored or self._stored_before(hour) for hour in hours)
            self._write(self.db, key, rows(hours), name if are_stored else None)
        return key

    def _tables_of(self, hours: Sequence[_Key]) -> str:
        """Return SQL that combines the tables of several hours, with only the overridden users in `user_sum`."""
        tables = {table: f"FROM {self._rows(table, hours)}" for table in _TABLES}
        tables["named"] = _each_once(self._rows("named", hours))
        # Only the last days need exact minutes and latencies, so combine earlier activity by hour.
        is_recent = f"hour >= {instant(hours[-1][0] - _RECENT)}"
        tables["activity"] = f"""
            SELECT hour, if({is_recent}, minute, hour) AS minute, stage, arm, channel, randomised, counts,
                   sum(decisions) AS decisions, sum(exposures) AS exposures, sum(fallbacks) AS fallbacks,
                   sum(unpaid) AS unpaid,
                   min(first) AS first, max(last) AS last, any_value(latencies) FILTER ({is_recent}) AS latencies
            FROM {self._rows("activity", hours)} GROUP BY ALL"""
        # The current period of a budget may have begun in the last two days, so keep the exact times of these costs.
        since = f"CASE WHEN hour >= {instant(hours[-1][0] - 2 * _DAY)} THEN since END"
        tables["spent"] = f"""
            SELECT min(hour) AS hour, min(since) AS since, arm, campaign_id, channel, sum(cost) AS cost
            FROM {self._rows("spent", hours)} GROUP BY arm, campaign_id, channel, {since}"""
        tables["user_sum"] += f" SEMI JOIN {self._rows('named', hours)} USING (unit)"
        return _in_one(tables)

    def _make_covariates(self, until: datetime) -> _Key:
        """Create the table `covariates`, and store it in the lake once the users' past can't change any more.

        An empty table is not stored, because its file would be dated 1970 and be deleted as too old.
        """
        lake, ends = self.log.lake, past_ends(self.db, self.experiment, "cell", "first")
        files = [*lake.closed("decision", until=ends + HOUR), *lake.closed("outcome", until=ends + HOUR)]
        key = ends.replace(minute=0, second=0, microsecond=0), (str(ends), *(file.name for file in files))
        if stored := self._stored_before(key):
            rows = f"read_parquet({sql_text(self._fetch(stored[0]))}, hive_partitioning = false)"
            self.db.execute(f"CREATE TABLE covariates AS FROM {rows}")
        else:
            make_covariates(self.db, lake, ends, self.kinds)
            if files and ends + _COMPACTED < until:
                self._write(self.db, key, "FROM covariates", f"{PAST}covariates")
        return key

    def _find_alike(self, until: datetime) -> bool:
        """Create the table `alike`, which maps each cell of the past to the first cell that counts in the same way."""
        self.db.execute(
            f"""CREATE TABLE alike AS
            SELECT cell, min(cell) OVER (PARTITION BY stage, arm, changed) AS one FROM counted
            WHERE hour < {instant(until)}"""
        )
        query = "SELECT coalesce(md5(string_agg(cell || ' ' || one, ' ' ORDER BY cell)), '') FROM alike"
        ((self._alike,),) = self.db.execute(query).fetchall()
        return bool(self._alike)

    def _users_of(self, hours: Sequence[_Key]) -> str:
        """Return SQL of each user's sums over several hours, without overridden users."""
        alike = f"{self._rows('user_sum', hours)} JOIN alike USING (cell)"
        unnamed = f"{alike} ANTI JOIN {self._rows('named', hours)} USING (unit)"
        rows = _added_up(f"(SELECT * EXCLUDE (one) REPLACE (one AS cell) FROM {unnamed})")
        return f"SELECT 'user_sum' AS of_table, * FROM ({rows}) ORDER BY unit"

    def _rows(self, table: str, keys: Sequence[_Key]) -> str:
        missing = [key for key in keys if key not in self._local]
        with ThreadPoolExecutor(_TRANSFERS) as pool:
            fetched = pool.map(lambda key: self._fetch(self._stored_before(key)[0]), missing)
            self._local |= zip(missing, fetched, strict=True)
        names = ", ".join(sql_text(self._local[key]) for key in keys)
        read = ", ".join(f"{sql_name(name)}::{kind} AS {sql_name(name)}" for name, kind in self._columns[table].items())
        return f"(SELECT {read} FROM read_parquet([{names}], hive_partitioning = false) WHERE of_table = '{table}')"

    def _write(self, db: duckdb.DuckDBPyConnection, key: _Key, rows: str, number: int | str | None) -> None:
        """Write a query's result to a local file and, unless `number` is None, to the lake."""
        self._local[key] = path = self.scratch / f"{secrets.token_hex(8)}.parquet"
        db.execute(f"COPY ({rows}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
        if number is None or not self._can_store:
            return
        name = self._derived.name(*key, number=number, of=1)
        try:
            self.log.lake.put(path, name)
            self._stored[key] = name
        except OSError as error:
            _log.warning("%s: each look reduces all hours, since it can store none: %s", self.log.lake.place, error)
            self._can_store = False

    def _fetch(self, file: LakeFile) -> Path:
        lake = self.log.lake
        if lake.folder is not None:
            return lake.folder / file.name
        path = self.scratch / file.name.replace("/", "-")
        try:
            copy_files(file.name, str(path), source_filesystem=lake.files)
        except FileNotFoundError:
            raise LogError(f"{lake.place}: a file was deleted while it was read; try again") from None
        return path


def _in_one(tables: Mapping[str, str]) -> str:
    """Return SQL that appends tables to each other, with the table's name in `of_table`."""
    return " UNION ALL BY NAME ".join(f"SELECT '{name}' AS of_table, * FROM ({rows})" for name, rows in tables.items())


def _each_once(rows: str) -> str:
    return f"SELECT unit, min(since) AS since FROM {rows} GROUP BY unit"


def _added_up(rows: str) -> str:
    return f"""SELECT unit, cell, segment, min(hour) AS hour, sum(COLUMNS(* EXCLUDE (unit, cell, segment, hour)))
        FROM {rows} GROUP BY unit, cell, segment"""
