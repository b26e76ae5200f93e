"""Removes forgotten users, and hours that are too old, from the lake.

    forget_in_bucket(Lake.open("gs://ads/lake"), {"u1"}, now)     # Counter({"outcomes": 20, "decisions": 14})

Files are sorted by user bucket, so only the row groups of the user's bucket are read. A file that contains the user is
first written again without the user, under another name, and then deleted. Files are deleted at once, so a query that
is reading such a file fails and has to be repeated.

Outcomes and shadows do not contain a user id; only their decision does. So they are removed before the decisions. If a
removal is interrupted, the next run still finds the decisions and can complete it.

A router or a compaction may write the user's records while a removal is running. Each of them therefore checks the list
of forgotten users again after writing. If it was killed before that check, the next compaction removes the user from
the files written since.
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

ASIDE = "{}: can't be read, so it was not searched. Repair it and move it back to arrived/, or delete it"
# The records that contain a user id.
_NAMING: tuple[Kind, ...] = ("decision", "window")
# Other processes may still write records of a forgotten user, so compactions remove the user again for this long.
_AGAIN = timedelta(days=2)
# A router's clock may differ from the object store's clock by this much.
_CLOCKS = timedelta(hours=1)


def forget_in_bucket(lake: Lake, users: Collection[str], now: datetime, before: datetime | None = None) -> Counter[str]:
    """Add users to the lake's list of forgotten users, and remove their records from the lake.

    Args:
        before: Also remove all records of hours that ended before this time.

    Returns:
        The number of removed rows of each kind of record.
    """
    removed = Counter(dict.fromkeys((f"{kind}s" for kind in KINDS), 0))
    # Another process may write the list at the same time.
    while lake.forget(users, now, before):
        removed += remove_users(lake, Forgotten(dict.fromkeys(map(unit_hash, users), now)))
    if before is not None:
        removed += drop_hours(lake, before)
    return removed


def remove_users(lake: Lake, forgotten: Forgotten, written_since: datetime | None = None) -> Counter[str]:
    """Remove the records of forgotten users from a lake.

    Args:
        written_since: Search only files that were written since this time. None means all files.

    Returns:
        The number of removed rows of each kind of record.
    """
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
        # An interrupted removal may have deleted a decision but not its window, so search the windows too.
        for kind in _NAMING:
            if files := _files(lake, kind, written_since):
                theirs = f"{buckets} AND {forgotten.sql(kind)}"
                db.execute(f"INSERT INTO gone SELECT decision_id FROM {sql_of(files)} WHERE {theirs}")
        which = f"{buckets} AND decision_id IN (FROM gone)"
        for kind in reversed(KINDS):
            found = _found(db, _files(lake, kind, written_since), which)
            hours.update(file.hour for file, _ in found)
            # Delete cached totals before records: after an interruption, no later run would find the totals.
            _drop_sums(lake, hours)
            for file, rows in found:
                _rewrite(lake, db, file, which)
                removed[f"{kind}s"] += rows
        # A verdict may have written totals from the old records in the meantime.
        _drop_sums(lake, hours)
        judged = _young(lake.derived("judged"), written_since)
        theirs = of_forgotten(forgotten.users)
        # If this user's decision found no budget left, other users' results depend on it, so compute the file again.
        for file, _ in _found(db, judged, f"{theirs} AND refuses"):
            judged.remove(file)
            _delete(lake, file)
        for file, _ in _found(db, judged, theirs):
            _rewrite(lake, db, file, theirs)
    return removed


def remove_again(lake: Lake, now: datetime) -> None:
    """Remove users who were forgotten in the last two days from files that were written afterwards."""
    if users := {name: until for name, until in lake.forgotten().users.items() if until > now - _AGAIN}:
        remove_users(lake, Forgotten(users), min(users.values()) - _CLOCKS)


def drop_hours(lake: Lake, before: datetime) -> Counter[str]:
    """Delete the files of all hours that ended before a time.

    Returns:
        The number of deleted rows of each kind of record.
    """
    removed: Counter[str] = Counter()
    for kind in reversed(KINDS):
        for file in _ended(_files(lake, kind, None), before):
            with lake.files.open_input_file(file.name) as stream:
                removed[f"{kind}s"] += pq.read_metadata(stream).num_rows
            _delete(lake, file)
    _drop_sums(lake, [file.hour for file in _ended(lake.derived("sums"), before)])
    # Such a file may also contain later hours. Their results are computed again when they are needed.
    for file in _ended(lake.derived("judged"), before):
        _delete(lake, file)
    return removed


def unreadable(lake: Lake) -> list[str]:
    """Return the names of unreadable files, which may still contain records of forgotten users."""
    aside = pafs.FileSelector(UNREADABLE, recursive=True, allow_not_found=True)
    return sorted(info.path for info in lake.files.get_file_info(aside) if info.type == pafs.FileType.File)


def _drop_sums(lake: Lake, hours: Collection[datetime]) -> None:
    """Delete the cached totals of the days that contain `hours`, because totals contain hashes of user ids."""
    days = {hour.date() for hour in hours}
    for file in lake.derived("sums") if days else ():
        if file.hour.date() in days or is_of_past(file):
            _delete(lake, file)


def _files(lake: Lake, kind: Kind, written_since: datetime | None) -> list[LakeFile]:
    return _young([*lake.arrived(kind), *lake.closed(kind)], written_since)  # arrived files first: see `Lake.records`


def _young(files: list[LakeFile], since: datetime | None) -> list[LakeFile]:
    return [file for file in files if since is None or file.written is None or file.written >= since]


def _ended(files: list[LakeFile], before: datetime) -> list[LakeFile]:
    return [file for file in files if file.hour + HOUR <= before]


def _found(db: duckdb.DuckDBPyConnection, files: list[LakeFile], which: str) -> list[tuple[LakeFile, int]]:
    """Return the files with rows that match the SQL condition `which`, and their numbers of matching rows."""
    by_name = {f"{SCHEME}{file.name}": file for file in files}
    query = f"SELECT filename, count(*) FROM {sql_of(files)} WHERE {which} GROUP BY filename"
    return [(by_name[name], rows) for name, rows in (db.execute(query).fetchall() if files else ())]


def _rewrite(lake: Lake, db: duckdb.DuckDBPyConnection, file: LakeFile, which: str) -> None:
    """Replace a file by a new file without the rows that match the SQL condition `which`."""
    folder, _, old = file.name.rpartition("/")
    with TemporaryDirectory(prefix="mtorl-forget-") as scratch:
        kept = Path(scratch, "kept.parquet")
        db.execute(f"COPY (FROM {sql_of([file])} WHERE NOT ({which})) TO '{kept}' (FORMAT parquet, COMPRESSION zstd)")
        if pq.read_metadata(kept).num_rows:
            lake.put(kept, f"{folder}/{old.partition('.')[0]}.{secrets.token_hex(4)}.parquet")
    _delete(lake, file)


def _delete(lake: Lake, file: LakeFile) -> None:
    """Delete a file. In a local lake, also delete the folders of its hour and day if they are empty."""
    lake.delete(file.name)
    if lake.folder is None:
        return
    with contextlib.suppress(OSError):  # the folder is not empty
        for folder in list((lake.folder / file.name).parents)[:2]:
            folder.rmdir()
