"""Reads and writes the lake, which stores all records as Parquet files in a folder or a bucket.

    lake = Lake.open("s3://ads/lake?region=eu-central-1")   # or a folder, gs://...
    with lake_database(lake) as db:
        rows = lake.records(db, "decision", since, until)      # SQL that returns each record once

    arrived/decisions/date=2026-11-25/hour=20/ROUTER-SEGMENT-OFFSET.parquet   uploaded by routers
    decisions/date=2026-11-25/hour=20/NAME.parquet                            closed hours (features/collect/compact.py)
    outcomes/date=2026-11-25/hour=20/late-NAME.parquet                        outcomes uploaded hours late
    sums/, judged/NAME-SETTINGS/date=2026-11-25/hour=20/NAME.parquet          computed from closed hours (`derived.py`)
    forgotten.json, superseded/                                               users and files to leave out
    unreadable/                                                               files that a compaction could not read

Outcomes, shadows and windows have folders like those of decisions. Each record is stored under the hour of its
decision, except that an uploaded file is in the folder of its newest hour. A file has the record's columns
(`sql_columns`), `hour` and `bucket`.

Files never change. To replace files, a writer writes a new file, hides the old files, and deletes the old files hours
later, when no query reads them. So each record is always in at least one file. Readers drop copies of a record, and
therefore need neither locks nor an index.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from mtorl.log.forgotten import FILE as FORGOTTEN
from mtorl.log.forgotten import Forgotten
from mtorl.log.messages import NO_LAKE, OTHER_RECORDS
from mtorl.log.records import Kind, rank_among_copies, sql_columns, this_version
from mtorl.log.touchpoints import LogError
from mtorl.runtime.duckdb_files import SCHEME, LakeFiles
from mtorl.runtime.files import naming_full_disk, replacing
from mtorl.runtime.object_stores import open_store, without_credentials
from mtorl.runtime.progress import without_progress_bar

if TYPE_CHECKING:
    import duckdb

HOUR = timedelta(hours=1)
HOUR_OF = "%Y-%m-%d-%H"
"""Format of the hour in the name of a temporary folder `hour_of=...`. An engine writes files there, which are then
moved to their folder in the lake."""
PLACED = {"hour": "TIMESTAMPTZ", "bucket": "UTINYINT"}
"""Columns that each file of the lake has in addition to the fields of its records, with their DuckDB types. They
determine in which file, and where in it, a record is stored."""
Zone = Literal["judged", "sums"]
"""Folders of tables that were computed from closed hours, by trainings ("judged") and by verdicts ("sums")."""
# A lake with this file contains decisions that were replayed from a log, with their weights.
REPLAY = "replay.parquet"
UNREADABLE = "unreadable"
"""Folder to which a compaction moves files that it can't read."""
LATE = "late-"
"""Prefix for the name of a file with outcomes that a router uploaded long after it had received them."""
_Part = TypeVar("_Part", bound="_Sized")
_ARRIVED = "arrived"
_HOUR = re.compile(r"(?:[^/=]+/)?date=(\d{4}-\d\d-\d\d)/hour=(\d\d)/[^/.][^/]*\.parquet")
_SUPERSEDED = "superseded"
_NOTE = re.compile(r"\d{20}-[0-9a-f]{8}\.json")


class Queries(Protocol):
    """A connection that runs SQL, such as a connection to DuckDB."""

    def execute(self, query: str, /) -> Any:
        """Run a query, and return a result that has the method `fetchall`."""


@dataclass(frozen=True, order=True)
class LakeFile:
    """A Parquet file of records in the lake."""

    # Hour of the decisions in the file; the newest if there are several.
    hour: datetime
    name: str  # path relative to the lake
    size: int  # in bytes
    written: datetime | None = field(default=None, compare=False)


class Lake:
    """A lake in a folder or an object store."""

    def __init__(self, files: pafs.FileSystem, place: str) -> None:
        self.files = files  # rooted at the lake
        self.place = place
        self.folder = Path(place) if "://" not in place else None
        self._fixed: dict[str, list[LakeFile]] | None = None

    @classmethod
    def open(cls, place: str | Path) -> Self:
        """Open the lake in a folder or in an object store, such as s3://... (see `mtorl.runtime.object_stores`).

        Raises:
            LogError: the address of the lake is invalid.
        """
        try:
            if "://" in (text := str(place)):
                root, path = open_store(text)
                return cls(pafs.SubTreeFileSystem(path, root), text.partition("?")[0])
            if not text or Path(text).is_file():
                raise ValueError("expected a folder, s3://... or gs://...")
            return cls(pafs.SubTreeFileSystem(str(Path(text).absolute()), pafs.LocalFileSystem()), text)
        except (OSError, ValueError) as error:
            raise LogError(NO_LAKE(place=without_credentials(str(place)), reason=error)) from None

    def fixed(self) -> Self:
        """Return a copy of this lake that lists each folder only once, so that all queries read the same files."""
        lake = type(self)(self.files, self.place)
        lake._fixed = {}
        return lake

    def closed(self, kind: Kind, since: datetime | None = None, until: datetime | None = None) -> list[LakeFile]:
        """Return the files of closed hours with one kind of records, oldest first.

        Args:
            until: End of the period, exclusive.
        """
        return self._listed(f"{kind}s", since, until)

    def arrived(self, kind: Kind, since: datetime | None = None) -> list[LakeFile]:
        """Return the uploaded files of this kind that are not compacted yet, oldest first."""
        return self._listed(f"{_ARRIVED}/{kind}s", since, None)

    def derived(self, zone: Zone) -> list[LakeFile]:
        """Return the files that were computed from closed hours (`mtorl.log.derived`), sorted by hour."""
        return self._list(zone)

    def of_files(self, decisions: Iterable[LakeFile], outcomes: Iterable[LakeFile], arrived: bool) -> Self:
        """Return a view of this lake with only these files of closed hours and, if `arrived`, all uploaded files."""
        lake = self.fixed()
        lake._fixed = {"decisions": sorted(decisions), "outcomes": sorted(outcomes)}
        kinds: tuple[Kind, ...] = ("decision", "outcome")
        lake._fixed |= {f"{_ARRIVED}/{kind}s": self.arrived(kind) if arrived else [] for kind in kinds}
        return lake

    def lost(self) -> set[str]:
        """Return the names of files that were deleted after this lake listed them. The lake must come from `fixed`.

        Tables that were computed from these files may contain a removed user.
        """
        folders = self._fixed or {}
        there = {
            info.path
            for folder in folders
            for info in self.files.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=True))
        }
        return {file.name for files in folders.values() for file in files} - there

    def __bool__(self) -> bool:
        """Return whether the lake contains any decision."""
        return bool(self.arrived("decision") or self.closed("decision"))

    def snapshot(self) -> str:
        """Return a text that identifies the records in the lake, or "" if the lake is empty.

        The text begins with the time of the newest upload, so that a repeated step can ignore later uploads.
        """
        if not self:
            return ""
        kinds: tuple[Kind, ...] = ("decision", "outcome", "window")
        files = [file for kind in kinds for file in (*self.arrived(kind), *self.closed(kind))]
        until = max(file.written for file in files if file.written).astimezone(UTC)
        digest = hashlib.sha256("\n".join(sorted(file.name for file in files)).encode())
        return f"{until.isoformat()} {digest.hexdigest()}"

    def _listed(self, folder: str, since: datetime | None, until: datetime | None) -> list[LakeFile]:
        if self._fixed is None:
            found = self._list(folder)
        else:
            kind = folder.removeprefix(f"{_ARRIVED}/")
            # List uploaded files first: if a compaction moves records meanwhile, they are read twice instead of never.
            for each in (f"{_ARRIVED}/{kind}", kind):
                if each not in self._fixed:
                    self._fixed[each] = self._list(each)
            found = self._fixed[folder]
        return [
            file
            for file in found
            if (since is None or file.hour + HOUR > since) and (until is None or file.hour < until)
        ]

    def _list(self, folder: str) -> list[LakeFile]:
        # Find hidden files first: if a file is replaced meanwhile, its records are read twice instead of never.
        hidden = self.superseded()
        found = []
        for info in self.files.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=True)):
            match = _HOUR.fullmatch(info.path.removeprefix(f"{folder}/"))
            if info.type == pafs.FileType.File and match and info.path not in hidden:
                hour = datetime.fromisoformat(f"{match[1]}T{match[2]}:00:00+00:00")
                found.append(LakeFile(hour, info.path, info.size, info.mtime))
        return sorted(found)

    def put(self, file: Path, name: str) -> None:
        """Copy a local file into the lake atomically.

        Raises:
            OSError: the file can't be read or written.
        """
        if self.folder is not None:
            with replacing(self.folder / name, durable=True) as unfinished:
                shutil.copyfile(file, unfinished)
            return
        with pa.memory_map(str(file)) as source, self.files.open_output_stream(name) as target:
            # An error between two calls would leave an incomplete object.
            target.write(source.read_buffer())

    def read(self, name: str) -> str | None:
        """Return the text of a small file, or None if there is no such file. Raises OSError."""
        try:
            with self.files.open_input_stream(name) as stream:
                return str(stream.read(), "utf-8")
        except FileNotFoundError:
            return None

    def write(self, name: str, text: str) -> None:
        """Write a small file atomically. Raises OSError."""
        with tempfile.TemporaryDirectory() as scratch:
            (file := Path(scratch, "text")).write_text(text, encoding="utf-8")
            self.put(file, name)

    def delete(self, name: str) -> None:
        """Delete a file, if it exists. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            self.files.delete_file(name)

    def superseded(self) -> set[str]:
        """Return the names of hidden files, whose records are also in newer files."""
        return {name for note in self._notes() for name in self._hidden_by(note)}

    def supersede(self, files: Iterable[LakeFile], kept_seconds: float) -> None:
        """Hide files whose records are also in newer files, and delete files that were hidden `kept_seconds` ago.

        Each call writes its own list of hidden files, so that two writers can't overwrite each other's lists.
        """
        now = time.time()
        if names := [file.name for file in files]:
            self.write(f"{_SUPERSEDED}/{int(now * 1e6):020d}-{secrets.token_hex(4)}.json", json.dumps(names))
        for note in self._notes():
            if int(note.rpartition("/")[2].partition("-")[0]) <= (now - kept_seconds) * 1e6:
                for name in (*self._hidden_by(note), note):
                    self.delete(name)

    def _notes(self) -> list[str]:
        found = self.files.get_file_info(pafs.FileSelector(_SUPERSEDED, allow_not_found=True))
        return sorted(info.path for info in found if _NOTE.fullmatch(info.base_name))

    def _hidden_by(self, note: str) -> list[str]:
        """Return the hidden files that a file from `supersede` lists, or none if that file is damaged."""
        with contextlib.suppress(ValueError):
            return list(json.loads(self.read(note) or "[]"))
        return []

    def forget(self, user_ids: Iterable[str], until: datetime, before: datetime | None = None) -> bool:
        """Add users to the list of forgotten users in a bucket, and return whether the list changed."""
        known = self.forgotten()
        if (after := known.extended(user_ids, until, before)) == known:
            return False
        self.write(FORGOTTEN, after.text())
        return True

    def forgotten(self) -> Forgotten:
        """Return the list of users whose records must no longer be written into this lake."""
        if self.folder is not None:
            return Forgotten.of(self.folder)
        text = self.read(FORGOTTEN)
        return Forgotten() if text is None else Forgotten.parsed(text, f"{self.place}/{FORGOTTEN}")

    def records(
        self, db: Queries, kind: Kind, since: datetime | None = None, until: datetime | None = None, where: str = "true"
    ) -> str:
        """Return SQL (DuckDB, Spark) for a table with each record of a period once.

        The period consists of whole hours, and a record belongs to the hour of its decision. The SQL names the lake's
        present files, so a query in `lake_database` raises LogError if one of them was deleted meanwhile.

        Args:
            until: End of the period, exclusive.
            where: SQL condition. It must have the same value for all copies of a record.
        """
        # List uploaded files first: if a compaction moves records meanwhile, they are read twice instead of never.
        arrived = self.arrived(kind, since)
        closed = by_hour(self.closed(kind, since, until))
        # Only hours with several files or with uploaded files can contain copies of a record.
        mixed = {hour for hour, files in closed.items() if len(files) > 1} | hours_of(db, arrived)
        once = [file for hour, files in closed.items() if hour not in mixed for file in files]
        several = [*arrived, *(file for hour in mixed for file in closed.get(hour, ()))]
        period = [f"hour >= {instant(since)}"] if since else []
        period += [f"hour < {instant(until)}"] if until else []
        where = " AND ".join([this_version(kind), *period, f"({where})"])
        columns = columns_of(kind)
        parts = [f"SELECT {columns} FROM {sql_of(once)} WHERE {where}"] if once else []
        if several:
            parts.append(one_of_each(kind, f"(SELECT {columns} FROM {sql_of(several)} WHERE {where})"))
        if not parts:
            nulls = ", ".join(f'NULL::{type_} AS "{name}"' for name, type_ in (sql_columns(kind) | PLACED).items())
            parts.append(f"SELECT {nulls} WHERE false")
        return f"({' UNION ALL '.join(parts)})"


def hour_written(folder: str) -> datetime:
    """Return the hour in the name of a folder, such as `hour_of=2026-11-25-20`."""
    return datetime.strptime(f"{folder}Z", f"hour_of={HOUR_OF}%z").astimezone(UTC)


def name_of(kind: Kind, hour: datetime, name: str, arrived: bool = False) -> str:
    """Return the path of a file of records in the lake.

    Args:
        arrived: True if a router uploads the file, false if a compaction writes it.
    """
    zone = f"{_ARRIVED}/" if arrived else ""
    return f"{zone}{kind}s/date={hour:%Y-%m-%d}/hour={hour:%H}/{name}.parquet"


def was_uploaded_late(file: LakeFile) -> bool:
    """Return whether a file has outcomes that a router uploaded long after receiving them."""
    return file.name.rpartition("/")[2].startswith(LATE)


def by_hour(files: Iterable[LakeFile]) -> dict[datetime, list[LakeFile]]:
    """Group files by hour."""
    found: dict[datetime, list[LakeFile]] = defaultdict(list)
    for file in files:
        found[file.hour].append(file)
    return found


def hours_of(db: Queries, files: Sequence[LakeFile], where: str = "true") -> set[datetime]:
    """Return the hours of the records in `files` that meet an SQL condition."""
    rows = db.execute(f"SELECT DISTINCT hour FROM {sql_of(files)} WHERE {where}").fetchall() if files else ()
    return {hour.astimezone(UTC) for (hour,) in rows}


class _Sized(Protocol):
    @property
    def size(self) -> int: ...


def in_parts(files: Iterable[_Part], part_bytes: int) -> Iterator[list[_Part]]:
    """Group consecutive files into parts of at least `part_bytes` bytes, except the last part."""
    part: list[_Part] = []
    size = 0
    for file in files:
        part.append(file)
        size += file.size
        if size >= part_bytes:
            yield part
            part, size = [], 0
    if part:
        yield part


def columns_of(kind: Kind) -> str:
    """Return the columns of one kind of records, as a comma-separated list for SQL."""
    return ", ".join(f'"{name}"' for name in sql_columns(kind) | PLACED)


def one_of_each(kind: Kind, rows: str) -> str:
    """Return SQL that keeps one copy of each record in `rows` (`rank_among_copies`)."""
    columns = columns_of(kind)
    placed = f"SELECT {columns}, {rank_among_copies(kind)} AS place FROM {rows} AS record"
    return f"SELECT {columns} FROM ({placed}) AS record WHERE place = 1"


def sql_of(files: Sequence[LakeFile]) -> str:
    """Return SQL for a table of all rows in some files."""
    names = ", ".join(f"'{SCHEME}{file.name}'" for file in files)
    return f"read_parquet([{names}], hive_partitioning = false)"


def instant(at: datetime) -> str:
    """Return a time as an SQL literal."""
    return f"TIMESTAMPTZ '{at.astimezone(UTC).isoformat()}'"


@contextmanager
def lake_database(lake: Lake, memory: str = "400MB") -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB database that can query a lake, with times in UTC.

    Raises:
        LogError: a file was deleted during a query, or a record has another schema version.
    """
    import duckdb

    # Each thread needs about 100 MB.
    settings = {"memory_limit": memory, "threads": "2", "preserve_insertion_order": "false"}
    with (
        naming_full_disk(Path(tempfile.gettempdir())),
        tempfile.TemporaryDirectory(prefix="mtorl-lake-") as scratch,
        duckdb.connect(Path(scratch, "tables"), config={**settings, "temp_directory": scratch}) as db,
    ):
        db.execute("SET TimeZone = 'UTC'")
        without_progress_bar(db)
        db.register_filesystem(LakeFiles(lake.files))
        try:
            yield db
        except duckdb.Error as error:
            why = str(error).partition("\n")[0].removeprefix("Invalid Input Error: ")
            if "of schema version" in why:
                raise LogError(OTHER_RECORDS(lake=lake.place, reason=why)) from None
            if "No files found" in why or "No such file" in why:
                raise LogError(f"{lake.place}: a file was deleted while it was read; try again") from None
            if SCHEME in why:
                raise LogError(
                    f"{lake.place} can't be read: {why.replace(SCHEME, '')}; move the file away: no router wrote it"
                ) from None
            raise
