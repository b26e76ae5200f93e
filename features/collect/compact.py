"""Compacts the lake: what has arrived moves into the hours of its decisions, each closed hour in few sorted files.

    print(compact(Lake.open("lake"), datetime.now(UTC)))

An hour is closed some minutes after its end. Records that come later, outcomes of up to a week ago most of all, are
added to closed hours as files of their own, until an hour has so many that it is merged into one. A run that is killed
can be repeated at any moment, and two at once lose nothing: new files are written before the old ones are hidden, and
a merge drops copies.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, get_args

from mtorl.log.forgotten import Forgotten
from mtorl.log.lake import HOUR, PLACED, Lake, LakeFile, lake_database, name_of, sql_of
from mtorl.log.records import ID_FIELD, Kind, one_record_each, sql_columns, this_version
from mtorl.runtime import progress

if TYPE_CHECKING:
    import duckdb

CLOSED_AFTER = timedelta(minutes=10)  # the end of an hour: a router uploads each minute
MOST_FILES = 8  # of an hour
KEPT_SECONDS = 2 * 3600.0  # for which a query may read files that are superseded
_PART_BYTES = 512 << 20  # of arrived files that are sorted together
_MEMORY = "600MB"


@dataclass(frozen=True)
class Compacted:
    """Counts of a run; `str()` of it is a summary for people."""

    files: int  # that had arrived
    hours: int  # that gained records, of all kinds
    merged: int  # hours that had many files

    def __str__(self) -> str:
        return f"{self.files:,} files moved into {self.hours:,} hours, {self.merged:,} hours merged"


def compact(lake: Lake, now: datetime) -> Compacted:
    """Move what has arrived into closed hours.

    Raises:
        LogError: A record has another version of the schema.
        OSError: The lake can't be read or written; nothing is lost, and the next run takes what is left.
    """
    files = hours = merged = 0
    kinds: tuple[Kind, ...] = get_args(Kind)
    with lake_database(lake, _MEMORY) as db, TemporaryDirectory(prefix="mtorl-compact-") as scratch:
        writer = _Writer(lake, db, Path(scratch))
        for kind in reversed(kinds):  # outcomes first: a decision in a closed hour has what was known of it
            ended = [file for file in lake.arrived(kind) if file.hour + HOUR + CLOSED_AFTER <= now]
            for done, part in enumerate(_parts(ended)):
                progress.report(done, len(ended), f"{kind}s")
                hours += len(writer.add(kind, part))
                files += len(part)
            merged += writer.merge(kind)
    lake.supersede([], KEPT_SECONDS)
    return Compacted(files, hours, merged)


class _Writer:
    def __init__(self, lake: Lake, db: duckdb.DuckDBPyConnection, scratch: Path) -> None:
        self._lake = lake
        self._db = db
        self._scratch = scratch

    def add(self, kind: Kind, arrived: Sequence[LakeFile]) -> set[datetime]:
        """Write the records of arrived files to their hours, and hide those files; returns the hours."""
        hours = self._write(kind, arrived)
        self._lake.supersede(arrived, KEPT_SECONDS)
        return hours

    def merge(self, kind: Kind) -> int:
        """Merge the files of each hour that has many; returns the number of such hours."""
        by_hour: dict[datetime, list[LakeFile]] = defaultdict(list)
        for file in self._lake.closed(kind):
            by_hour[file.hour].append(file)
        many = {hour: files for hour, files in by_hour.items() if len(files) > MOST_FILES}
        for _hour, files in many.items():
            self._write(kind, files)
            self._lake.supersede(files, KEPT_SECONDS)
        return len(many)

    def _write(self, kind: Kind, files: Sequence[LakeFile]) -> set[datetime]:
        """Write the records of some files to their hours; returns those."""
        # A run that was killed before it hid the files writes the same names again.
        name = hashlib.blake2b("\n".join(file.name for file in files).encode(), digest_size=8).hexdigest()
        hours: set[datetime] = set()
        forgotten: Forgotten | None = None
        # A user who is forgotten meanwhile may be in the new files, and was not found there.
        while forgotten != (forgotten := self._lake.forgotten()):
            out = self._scratch / "hours"
            columns = ", ".join([*sql_columns(kind), *PLACED])
            rows = one_record_each(kind, f"(FROM {sql_of(files)} WHERE {this_version(kind)})")
            self._db.execute(
                f"""COPY (
                    SELECT {columns}, strftime(hour, '%Y-%m-%dT%H') AS hour_of FROM ({rows})
                    WHERE NOT {forgotten.sql(kind)} ORDER BY hour, bucket, decision_id, {ID_FIELD[kind]})
                TO '{out}' (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (hour_of), OVERWRITE true)"""
            )
            for folder in sorted(out.glob("hour_of=*")):
                hour = datetime.fromisoformat(f"{folder.name.partition('=')[2]}:00:00+00:00")
                for number, file in enumerate(sorted(folder.glob("*.parquet"))):
                    self._lake.put(file, name_of(kind, hour, f"{name}-{number}"))
                hours.add(hour)
        return hours


def _parts(files: Sequence[LakeFile]) -> Iterator[list[LakeFile]]:
    """Neighbours together, of about `_PART_BYTES`."""
    part: list[LakeFile] = []
    size = 0
    for file in files:
        part.append(file)
        size += file.size
        if size >= _PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
