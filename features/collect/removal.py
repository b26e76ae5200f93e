"""Removes users from a lake, and hours that are too old.

    forget_in_bucket(Lake.open("gs://ads/lake"), {"u1"}, now)     # Counter({"outcomes": 20, "decisions": 14})

Of each file only the row groups of the user's bucket are read. A file that holds the user is written without it under
another name, then deleted at once, and so is each superseded file: a query that reads it at that moment fails, and can
be repeated. Records that name no user go before the decisions that name theirs, so that the next run completes an
interrupted one.

A router or a compaction at work may write the user once more. Each looks at the note of forgotten users again after
writing; if it was killed before that, the next compaction removes the user from what was written since.
"""

from __future__ import annotations

import contextlib
import secrets
from collections import Counter
from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pyarrow.fs as pafs
import pyarrow.parquet as pq

from features.collect.rules import of_forgotten
from mtorl.log.decision_ids import bucket_of_hash
from mtorl.log.derived import is_of_past
from mtorl.log.forgotten import Forgotten
from mtorl.log.lake import HOUR, UNREADABLE, Lake, LakeFile, lake_database, sql_of
from mtorl.log.records import KINDS, Kind, unit_hash
from mtorl.runtime.duckdb_files import SCHEME

if TYPE_CHECKING:
    import duckdb

ASIDE = "{}: can't be read, so it is unknown who is in it: mend it and put it back into arrived/, or remove it"
_NAMING: tuple[Kind, ...] = ("decision", "window")  # their user
_AGAIN = timedelta(days=2)  # for which compactions look again; each hour one does
_CLOCKS = timedelta(hours=1)  # by which those of routers and store may differ


def forget_in_bucket(lake: Lake, users: Collection[str], now: datetime, before: datetime | None = None) -> Counter[str]:
    """Note the users to forget in a lake, and remove them; returns the removed rows by kind.

    Hours that ended earlier than `before` go too. After an error, because the lake can't be read or written, run it
    again.
    """
    removed = Counter(dict.fromkeys((f"{kind}s" for kind in KINDS), 0))
    while lake.forget(users, now, before):  # another run at this moment may have replaced the note
        removed += remove_users(lake, Forgotten(dict.fromkeys(map(unit_hash, users), now)))
    if before is not None:
        removed += drop_hours(lake, before)
    return removed


def remove_users(lake: Lake, forgotten: Forgotten, written_since: datetime | None = None) -> Counter[str]:
    """Remove users from a lake, or from files written since a time; returns the rows that went, by kind."""
    removed: Counter[str] = Counter()
    hours: set[datetime] = set()
    if not forgotten.users:
        return removed
    if written_since is None:
        lake.supersede([], 0)
    buckets = f"bucket IN ({', '.join(map(str, sorted(set(map(bucket_of_hash, forgotten.users)))))})"
    with lake_database(lake) as db:
        db.execute("SET preserve_insertion_order = true")
        db.execute("CREATE TABLE gone (decision_id VARCHAR)")
        for kind in _NAMING:  # both: an upload or a compaction may have left out a decision before, but not its window
            if files := _files(lake, kind, written_since):
                theirs = f"{buckets} AND {forgotten.sql(kind)}"
                db.execute(f"INSERT INTO gone SELECT decision_id FROM {sql_of(files)} WHERE {theirs}")
        which = f"{buckets} AND decision_id IN (FROM gone)"
        for kind in reversed(KINDS):
            found = _found(db, _files(lake, kind, written_since), which)
            hours.update(file.hour for file, _ in found)
            _drop_sums(lake, hours)  # before, so that the next run completes an interrupted one
            for file, rows in found:
                _rewrite(lake, db, file, which)
                removed[f"{kind}s"] += rows
        # Last, for a verdict or a training may have stored some meanwhile.
        _drop_sums(lake, hours)
        judged = _young(lake.derived("judged"), written_since)
        theirs = of_forgotten(forgotten.users)
        # Without a refusal of theirs, others begin or end the time without money: those rows have to be judged again.
        for file, _ in _found(db, judged, f"{theirs} AND refuses"):
            judged.remove(file)
            _delete(lake, file)
        for file, _ in _found(db, judged, theirs):
            _rewrite(lake, db, file, theirs)
    return removed


def remove_again(lake: Lake, now: datetime) -> None:
    """Remove recently forgotten users from files that were written since."""
    if users := {name: until for name, until in lake.forgotten().users.items() if until > now - _AGAIN}:
        remove_users(lake, Forgotten(users), min(users.values()) - _CLOCKS)


def drop_hours(lake: Lake, before: datetime) -> Counter[str]:
    """Delete the files of hours that ended before a time; returns the rows in them, by kind."""
    removed: Counter[str] = Counter()
    for kind in reversed(KINDS):
        for file in _ended(_files(lake, kind, None), before):
            with lake.files.open_input_file(file.name) as stream:
                removed[f"{kind}s"] += pq.read_metadata(stream).num_rows
            _delete(lake, file)
    _drop_sums(lake, [file.hour for file in _ended(lake.derived("sums"), before)])
    for file in _ended(lake.derived("judged"), before):  # the rest of a block is made again
        _delete(lake, file)
    return removed


def unreadable(lake: Lake) -> list[str]:
    """Files that a compaction has moved aside, with unknown users."""
    aside = pafs.FileSelector(UNREADABLE, recursive=True, allow_not_found=True)
    return sorted(info.path for info in lake.files.get_file_info(aside) if info.type == pafs.FileType.File)


def _drop_sums(lake: Lake, hours: Collection[datetime]) -> None:
    """Delete what verdicts have made of the days of some hours, or of all days: the sums hold hashes of users."""
    days = {hour.date() for hour in hours}
    for file in lake.derived("sums") if days else ():
        if file.hour.date() in days or is_of_past(file):
            _delete(lake, file)


def _files(lake: Lake, kind: Kind, written_since: datetime | None) -> list[LakeFile]:
    return _young([*lake.arrived(kind), *lake.closed(kind)], written_since)  # in this order: see `Lake.records`


def _young(files: list[LakeFile], since: datetime | None) -> list[LakeFile]:
    return [file for file in files if since is None or file.written is None or file.written >= since]


def _ended(files: list[LakeFile], before: datetime) -> list[LakeFile]:
    return [file for file in files if file.hour + HOUR <= before]


def _found(db: duckdb.DuckDBPyConnection, files: list[LakeFile], which: str) -> list[tuple[LakeFile, int]]:
    """The files that hold some rows, each with their number."""
    by_name = {f"{SCHEME}{file.name}": file for file in files}
    query = f"SELECT filename, count(*) FROM {sql_of(files)} WHERE {which} GROUP BY filename"
    return [(by_name[name], rows) for name, rows in (db.execute(query).fetchall() if files else ())]


def _rewrite(lake: Lake, db: duckdb.DuckDBPyConnection, file: LakeFile, which: str) -> None:
    """Write a file without some rows, under another name, and delete it."""
    folder, _, old = file.name.rpartition("/")
    with TemporaryDirectory(prefix="mtorl-forget-") as scratch:
        kept = Path(scratch, "kept.parquet")
        db.execute(f"COPY (FROM {sql_of([file])} WHERE NOT ({which})) TO '{kept}' (FORMAT parquet, COMPRESSION zstd)")
        if pq.read_metadata(kept).num_rows:
            lake.put(kept, f"{folder}/{old.partition('.')[0]}.{secrets.token_hex(4)}.parquet")
    _delete(lake, file)


def _delete(lake: Lake, file: LakeFile) -> None:
    """Delete a file, and the folders of its hour and day if they are empty; a bucket has none."""
    lake.delete(file.name)
    if lake.folder is None:
        return
    with contextlib.suppress(OSError):  # not empty
        for folder in list((lake.folder / file.name).parents)[:2]:
            folder.rmdir()
