"""Compacts the lake: moves arrived records into the hours of their decisions, each hour in a few sorted files.

    print(compact(Lake.open("lake"), datetime.now(UTC)))

An hour is closed some minutes after its end. Records that come later, outcomes of up to a week ago most of all, are
added to closed hours as files of their own. An hour's files are merged by size, so that a record is rewritten a few
times, however many files its hour gains. Files with outcomes that a router uploaded hours late are named `late-...`, so
that verdicts reduce their hour again (`monitoring/verdict/stored_sums.py`). They are merged when the hour is final; the
merged file is named `late-...` as well.

A run that is killed can be repeated at any moment, and two at once lose nothing: new files are written before the old
ones are hidden, and a merge drops copies. A file that can't be read moves to the lake's folder `unreadable/`.
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

CLOSED_AFTER = timedelta(minutes=10)  # the end of an hour: a router uploads each minute
LATE_AFTER = timedelta(hours=2, minutes=20)  # after it was received, an outcome is compacted, where uploads do not fail
MOST_FILES = 8  # of one size, in an hour
FINAL_AFTER = timedelta(days=8)  # few outcomes come later: an hour becomes one file
KEPT_SECONDS = 2 * 3600.0  # for which a query may read files that are superseded
_ALIKE = 4  # a file is merged once the smaller ones have a fourth of its size together


@dataclass
class Compacted:
    """Counts of a run; `str()` of it is a summary for people."""

    files: int = 0  # that had arrived
    hours: set[datetime] = field(default_factory=set)  # that gained records
    merged: int = 0  # hours whose files were merged, of all kinds
    unreadable: list[str] = field(default_factory=list)  # files that were moved aside

    def __str__(self) -> str:
        lines = [f"{self.files:,} files moved into {len(self.hours):,} hours, {self.merged:,} hours merged"]
        lines += [f"can't be read, and lies in {UNREADABLE}/ now: {name}" for name in self.unreadable]
        return "\n".join(lines)


def compact(lake: Lake, now: datetime, engine: str = "") -> Compacted:
    """Move arrived records into closed hours; after an OSError, the next run takes the rest.

    A record of another version of the schema is a `LogError`.
    """
    done = Compacted()
    try:
        remove_again(lake, now)
    except LogError:  # a file can't be read
        arrived = [(kind, file) for kind in KINDS for file in lake.arrived(kind)]
        done.unreadable += [_set_aside(lake, file) for kind, file in arrived if not _can_read(lake, kind, file)]
        remove_again(lake, now)
    with open_database(lake, engine) as db:
        for kind in reversed(KINDS):  # outcomes first, so that a decision in a closed hour has its known outcomes
            # An hour in the future, by a clock that is ahead or an id that was made up, ends after the upload.
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
    """Write the records of some files to their hours, and hide the files; returns the hours.

    Args:
        uploaded_since: Of files that have arrived: outcomes that were received earlier were uploaded late.
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
    name = secrets.token_hex(8)  # its own: of two runs at once, one may have to delete what it wrote
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
    # A user who was forgotten meanwhile may be in the new files; the next run removes them.
    for file in written:
        lake.delete(file)  # unless it was written without the user meanwhile, under another name
    return set()


def _to_merge(files: Sequence[LakeFile], now: datetime, full: int) -> dict[datetime, list[LakeFile]]:
    """The files to merge, by hour: many of like size, or any of an old hour."""
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
    """Whether a file holds records. Raises OSError if the lake can't be read: that says nothing of the file."""
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
