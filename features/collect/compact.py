"""Compacts the lake: moves arrived records into the hours of their decisions, each hour in a few sorted files.

    print(compact(Lake.open("lake"), datetime.now(UTC)))

An hour is closed a few minutes after its end. Records that arrive later are added to closed hours as separate files;
most are outcomes, up to a week late. The files of an hour are merged by size, so each record is rewritten only a few
times, however many files its hour gains.

If a router uploads outcomes hours late, their files are named `late-...`, so that verdicts recompute their hour
(`monitoring/verdict/stored_sums.py`). These files are merged once the hour is final, into a file that is also named
`late-...`.

A compaction that was killed or failed can be run again at any time, and two can run at once without losing records: new
files are written before the old ones are hidden, and a merge drops copies. Unreadable files move to the lake's folder
`unreadable/`.
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

CLOSED_AFTER = timedelta(minutes=10)  # time from the end of an hour until it is closed; routers upload each minute
LATE_AFTER = timedelta(hours=2, minutes=20)  # longest time from receipt to compaction if uploads work
MOST_FILES = 8  # an hour's files of similar size are merged once there are this many
FINAL_AFTER = timedelta(days=8)  # few outcomes arrive after this time, so the hour is merged into one file
KEPT_SECONDS = 2 * 3600.0  # superseded files are kept this long for running queries
_ALIKE = 4  # a file is merged once the smaller files together have a quarter of its size


@dataclass
class Compacted:
    """Counts of a compaction; `str()` gives a readable summary."""

    files: int = 0  # arrived files that were moved
    hours: set[datetime] = field(default_factory=set)  # hours to which records were added
    merged: int = 0  # merges of an hour's files, summed over the kinds of records
    unreadable: list[str] = field(default_factory=list)  # unreadable files that were moved aside

    def __str__(self) -> str:
        lines = [f"{self.files:,} files moved into {len(self.hours):,} hours, {self.merged:,} hours merged"]
        lines += [f"can't be read, so it was moved to {UNREADABLE}/: {name}" for name in self.unreadable]
        return "\n".join(lines)


def compact(lake: Lake, now: datetime, engine: str = "") -> Compacted:
    """Move arrived records into closed hours; raises a `LogError` if a record has another schema version."""
    done = Compacted()
    try:
        remove_again(lake, now)
    except LogError:  # a file can't be read
        arrived = [(kind, file) for kind in KINDS for file in lake.arrived(kind)]
        done.unreadable += [_set_aside(lake, file) for kind, file in arrived if not _can_read(lake, kind, file)]
        remove_again(lake, now)
    with open_database(lake, engine) as db:
        for kind in reversed(KINDS):  # outcomes first, so that a closed decision is never without its outcomes
            # A clock that is ahead, or an invented id, may put a file's hour into the future. In this case, the upload
            # time decides whether the file's hour has ended.
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
    """Write the records of some files to their hours, hide the files and return the hours.

    Args:
        uploaded_since: Outcomes received before this time count as uploaded late. None if closed files are merged.
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
    name = secrets.token_hex(8)  # unique, so that of two concurrent runs, each deletes only its own files
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
    # The new files may contain a user who was forgotten meanwhile. Delete them; the next run repeats the work.
    for file in written:
        lake.delete(file)  # it is missing if a removal has replaced it by a file without the user
    return set()


def _to_merge(files: Sequence[LakeFile], now: datetime, full: int) -> dict[datetime, list[LakeFile]]:
    """Return the files to merge, by hour: many files of similar size, or all files of an hour that is final."""
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
    """Return whether a file contains valid records; raises OSError only if the lake can't be read."""
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
