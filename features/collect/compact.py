"""Compacts the lake: moves uploaded records into the hours of their decisions, with a few sorted files per hour.

    print(compact(Lake.open("lake"), datetime.now(UTC)))

An hour is closed a few minutes after its end. Records that arrive later are added to the closed hour as separate files.
Most of them are outcomes, which arrive up to a week after their decision. Small files of an hour are merged with files
of similar size, so each record is rewritten only a few times.

If a router uploads outcomes hours late, the compaction writes them to files named `late-...`, so that verdicts
recompute the totals of that hour (`monitoring/verdict/stored_sums.py`). Eight days after the hour, all its files are
merged into one. If any of them was named `late-...`, so is the new file.

A compaction that was killed can be run again, and two compactions may run at the same time. No record is lost, because
new files are written before the old files are hidden. Files that can't be read are moved to the folder `unreadable/` of
the lake.
"""

import contextlib
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq

from features.collect.database import Database, open_database
from features.collect.removal import remove_again
from mtorl.log.lake import (
    HOUR,
    LATE,
    PLACED,
    UNREADABLE,
    Lake,
    LakeFile,
    by_hour,
    columns_of,
    hours_of,
    in_parts,
    instant,
    name_of,
    one_of_each,
    sql_of,
    was_uploaded_late,
)
from mtorl.log.records import ID_FIELD, KINDS, Kind, sql_columns, this_version
from mtorl.log.touchpoints import LogError
from mtorl.runtime import progress

# Most records of an hour have been uploaded this long after the end of the hour.
CLOSED_AFTER = timedelta(minutes=10)
# An outcome is late if it is compacted more than this time after the router received it.
LATE_AFTER = timedelta(hours=2, minutes=20)
# The files of one hour that have similar sizes are merged once there are this many.
MOST_FILES = 8
# Few outcomes arrive later than this, so even two files of an hour are then merged.
FINAL_AFTER = timedelta(days=8)
# After a merge, the old files stay this long for queries that still read them.
KEPT_SECONDS = 2 * 3600.0
# A file is merged only if it is at most this many times as large as all smaller files of its hour together.
_ALIKE = 4


@dataclass
class Compacted:
    """The result of a compaction. `str()` gives a readable summary.

    Attributes:
        unreadable: Names of damaged files, which were moved to the folder `unreadable/`.
    """

    files: int = 0
    hours: set[datetime] = field(default_factory=set)
    merged: int = 0
    unreadable: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.files:,} files moved into {len(self.hours):,} hours, {self.merged:,} hours merged"]
        lines += [f"can't be read, so it was moved to {UNREADABLE}/: {name}" for name in self.unreadable]
        return "\n".join(lines)


def compact(lake: Lake, now: datetime, engine: str = "") -> Compacted:
    """Move uploaded records to the folders of their hours, and merge small files of the same hour.

    Raises:
        LogError: A record was written with another version of the record schema.
    """
    done = Compacted()
    try:
        remove_again(lake, now)
    except LogError:  # a file in the lake can't be read
        arrived = [(kind, file) for kind in KINDS for file in lake.arrived(kind)]
        done.unreadable += [_set_aside(lake, file) for kind, file in arrived if not _can_read(lake, kind, file)]
        remove_again(lake, now)
    with open_database(lake, engine) as db:
        # Move outcomes before decisions. Otherwise, a query could find a decision without its outcomes.
        for kind in reversed(KINDS):
            # If a router's clock is ahead, the hour of a file may be in the future. Use its upload time instead.
            reached = ((file, min(file.hour, file.written or file.hour)) for file in lake.arrived(kind))
            ended = [file for file, hour in reached if hour + HOUR + CLOSED_AFTER <= now]
            taken = 0
            for part in in_parts(ended, db.part_bytes):
                progress.report(taken, len(ended), f"{kind}s: files that have arrived")
                done.hours |= _rewrite(lake, db, kind, part, done, now - LATE_AFTER)
                taken += len(part)
            done.files += len(ended)
            merges = _to_merge(lake.closed(kind), now, db.part_bytes)
            done.merged += len(merges)
            for part in in_parts([file for files in merges.values() for file in files], db.part_bytes):
                progress.report(taken, len(ended), f"{kind}s: merging")
                _rewrite(lake, db, kind, part, done)
    lake.supersede([], KEPT_SECONDS)
    return done


def _rewrite(
    lake: Lake,
    db: Database,
    kind: Kind,
    files: Sequence[LakeFile],
    done: Compacted,
    uploaded_since: datetime | None = None,
) -> set[datetime]:
    """Move records to the hours of their decisions, hide the original `files`, and return the hours.

    Args:
        uploaded_since: Outcomes that were received before this time are marked as uploaded late. None means that no
            outcome is new.
    """
    try:
        return _write(lake, db, kind, files, uploaded_since)
    except db.failures:
        unreadable = [file for file in files if not _can_read(lake, kind, file)]
        if not unreadable:
            raise
    done.unreadable += [_set_aside(lake, file) for file in unreadable]
    readable = [file for file in files if file not in unreadable]
    return _write(lake, db, kind, readable, uploaded_since) if readable else set()


def _write(lake: Lake, db: Database, kind: Kind, files: Sequence[LakeFile], since: datetime | None) -> set[datetime]:
    # With random names, two compactions that run at once don't delete each other's files.
    name = secrets.token_hex(8)
    hours: set[datetime] = set()
    late = {file.hour for file in files if was_uploaded_late(file)}
    if kind == "outcome" and since is not None:
        late = hours_of(db, files, f"greatest(event_time, received_time) < {instant(since)}")

    def named(hour: datetime, number: int, _: int) -> str:
        hours.add(hour)
        return name_of(kind, hour, f"{LATE if hour in late else ''}{name}-{number}")

    forgotten = lake.forgotten()
    rows = f"SELECT {columns_of(kind)} FROM {sql_of(files)} WHERE {this_version(kind)} AND NOT {forgotten.sql(kind)}"
    order = ("bucket", "decision_id", ID_FIELD[kind])
    written = db.write_hours(rows, order, named, lambda rows: one_of_each(kind, rows))
    if lake.forgotten() == forgotten:
        lake.supersede(files, KEPT_SECONDS)
        return hours
    # The new files may contain a user who was forgotten in the meantime, so delete them. The next compaction tries
    # again.
    for file in written:
        # The file no longer exists if a removal of users has replaced it.
        lake.delete(file)
    return set()


def _to_merge(files: Sequence[LakeFile], now: datetime, full: int) -> dict[datetime, list[LakeFile]]:
    """Return the files that should be merged in each hour. Larger files than `full` bytes are left alone."""
    small = by_hour(file for file in files if file.size < full)
    found = {}
    for hour, there in small.items():
        final = hour + FINAL_AFTER <= now
        there = [file for file in there if final or not was_uploaded_late(file)]
        there.sort(key=lambda file: (file.size, file.name))
        alike = size = 0
        for number, file in enumerate(there):
            if file.size <= _ALIKE * size:
                alike = number + 1
            size += file.size
        if alike >= (2 if final else MOST_FILES):
            found[hour] = sorted(there[:alike])
    return found


def _can_read(lake: Lake, kind: Kind, file: LakeFile) -> bool:
    """Return True if `file` contains valid records of this `kind`."""
    with TemporaryDirectory(prefix="mtorl-file-") as scratch:
        copy = Path(scratch, "file.parquet")
        with lake.files.open_input_stream(file.name) as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        with contextlib.suppress(pa.ArrowException, OSError), pq.ParquetFile(copy) as table:
            for batch in table.iter_batches():
                batch.validate(full=True)
            return set(table.schema_arrow.names) >= {*sql_columns(kind), *PLACED}
    return False


def _set_aside(lake: Lake, file: LakeFile) -> str:
    target = f"{UNREADABLE}/{file.name}"
    lake.files.create_dir(target.rpartition("/")[0], recursive=True)
    lake.files.move(file.name, target)
    return file.name
