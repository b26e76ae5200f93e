"""Removes rows from Parquet tables: those of some users, those of their decisions, and old ones.

    rows = Rows(frozenset({"u1"}))
    rows.remove(path)                                # how many there were; the file is rewritten whole, or not at all

`user_id` of a table names a user, `decision_id` a decision of one. Other rows stay as they are, in their order and
types.
"""

import csv
import io
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from mtorl.log.touchpoints import LOG_FILE
from mtorl.runtime.files import replacing

USER, DECISION = "user_id", "decision_id"
_TIMES = ("event_time", "timestamp")


@dataclass(frozen=True)
class Rows:
    """The rows that have to go: of `users`, or of `decisions` in a table that names no user.

    Decisions and outcomes from `before` a time, and touchpoints of a log, go too.
    """

    users: frozenset[str]
    decisions: frozenset[str] = frozenset()
    before: datetime | None = None

    def decisions_in(self, path: Path) -> set[str]:
        """Ids of the decisions that have to go, in a table that names their users."""
        rows, gone = ds.dataset(path, format="parquet"), self._gone(path)
        if gone is None or not {USER, DECISION} <= set(rows.schema.names):
            return set()
        return set(rows.to_table([DECISION], gone)[DECISION].cast(pa.string()).to_pylist())

    def remove(self, path: Path) -> int | None:
        """Take the rows out of a table; returns how many, and None if the table is about something else.

        A file without such rows is not touched.
        """
        gone = self._gone(path)
        if gone is None:
            return None
        removed = ds.dataset(path, format="parquet").count_rows(filter=gone)
        if removed:
            with pq.ParquetFile(path) as file, replacing(path, durable=True) as unfinished:
                codec = file.metadata.row_group(0).column(0).compression
                with pq.ParquetWriter(unfinished, file.schema_arrow, compression=codec) as writer:
                    for group in range(file.num_row_groups):
                        writer.write_table(file.read_row_group(group).filter(~gone))
                shutil.copymode(path, unfinished)
            path.with_name(f".{path.name}.crc").unlink(missing_ok=True)  # Spark's checksum of what it was
        return int(removed)

    def _gone(self, path: Path) -> pc.Expression | None:
        """Whether a row of a table has to go, never null; None: the table is about something else."""
        schema = pq.read_schema(path)
        key, names = (USER, self.users) if USER in schema.names else (DECISION, self.decisions)
        if key not in schema.names:
            return None
        gone = pc.field(key).cast(pa.string()).isin(pa.array(sorted(names), pa.string()))
        by_age = DECISION in schema.names or LOG_FILE in (path.name, path.parent.name)
        time = next((name for name in _TIMES if by_age and self.before and name in schema.names), None)
        if time is not None and pa.types.is_timestamp(kind := schema.field(time).type):
            oldest = pa.scalar(self.before, pa.timestamp("us", "UTC")).cast(kind)
            gone |= pc.coalesce(pc.field(time) < oldest, pc.scalar(False))
        return gone


def remove_quarantined(path: Path, users: frozenset[str]) -> int:
    """Take the rows that name a user, in any column, out of a CSV of faulty rows; returns how many."""
    csv.field_size_limit(1 << 30)
    kept, removed = io.StringIO(newline=""), 0
    writer = csv.writer(kept, lineterminator="\n")
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.reader(file):
            if users.isdisjoint(row):
                writer.writerow(row)
            else:
                removed += 1
    if removed:
        with replacing(path, durable=True) as unfinished:
            unfinished.write_text(kept.getvalue(), encoding="utf-8", newline="")
            shutil.copymode(path, unfinished)
    return removed
