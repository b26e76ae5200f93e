"""Removes rows of users, rows of their decisions, and old rows from Parquet tables.

All other rows keep their values, order and types.
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
    """Describes the rows to remove, and removes them from Parquet tables.

    Attributes:
        before: Also remove decisions, outcomes and touchpoints that are older than this time.
    """

    users: frozenset[str]
    decisions: frozenset[str] = frozenset()
    before: datetime | None = None

    def decisions_in(self, path: Path) -> set[str]:
        """Return the ids of the decisions whose rows `remove` would delete from a table with user ids."""
        rows, gone = ds.dataset(path, format="parquet"), self._gone(path)
        if gone is None or not {USER, DECISION} <= set(rows.schema.names):
            return set()
        return set(rows.to_table([DECISION], gone)[DECISION].cast(pa.string()).to_pylist())

    def remove(self, path: Path) -> int | None:
        """Remove the rows from a Parquet file. Returns their number, or None if no column has ids."""
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
            path.with_name(f".{path.name}.crc").unlink(missing_ok=True)  # Spark's checksum of the old file
        return int(removed)

    def _gone(self, path: Path) -> pc.Expression | None:
        """Return a condition that is true for the rows to remove, and false (never null) for the others."""
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
    """Remove each CSV row that contains a user id in any column. Returns the number of removed rows."""
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
