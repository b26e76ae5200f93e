"""Removes rows from Parquet tables: those of some users, those of their decisions, and old ones.

    rows = Rows(frozenset({"u1"}), before=None)
    rows.remove(path)                                # how many there were; the file is rewritten whole, or not at all

`user_id` of a table names a user, `decision_id` a decision of one. Other rows stay as they are, in their order and
types.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mtorl.log.touchpoints import LOG_FILE
from mtorl.runtime.files import replacing

USER, DECISION = "user_id", "decision_id"
_TIMES = ("event_time", "timestamp")
Which = Callable[[pa.Table], pa.ChunkedArray]
"""Of each row of a table, whether it has to go."""


@dataclass(frozen=True)
class Rows:
    """The rows that have to go: of `users`, or of `decisions` in a table that names no user.

    Attributes:
        before: Older decisions, their outcomes, and touchpoints of a log go too; None: none does.
    """

    users: frozenset[str]
    decisions: frozenset[str] = frozenset()
    before: datetime | None = None

    def of(self, path: Path, schema: pa.Schema) -> tuple[list[str], Which] | None:
        """The columns that say which rows of a table have to go, and that rule; None: another kind of table."""
        keys: dict[str, pa.Array] = {}
        if USER in schema.names:
            keys[USER] = pa.array(sorted(self.users), pa.string())
        elif DECISION in schema.names:
            keys[DECISION] = pa.array(sorted(self.decisions), pa.string())
        else:
            return None
        by_age = DECISION in schema.names or LOG_FILE in (path.name, path.parent.name)
        time = next((name for name in _TIMES if by_age and self.before and name in schema.names), None)
        if time is not None and not pa.types.is_timestamp(schema.field(time).type):
            time = None

        def which(table: pa.Table) -> pa.ChunkedArray:
            found = [pc.is_in(table[key].cast(pa.string()), values) for key, values in keys.items()]
            if time is not None:
                oldest = pa.scalar(self.before, pa.timestamp("us", "UTC")).cast(table[time].type)
                found.append(pc.fill_null(pc.less(table[time], oldest), False))
            (first, *rest) = found
            return pc.or_(first, rest[0]) if rest else first

        return [*keys, *([time] if time else [])], which

    def decisions_in(self, path: Path) -> set[str]:
        """Ids of the decisions that have to go, in a table that names their users."""
        schema = pq.read_schema(path)
        if not {USER, DECISION} <= set(schema.names) or (wanted := self.of(path, schema)) is None:
            return set()
        columns, which = wanted
        ids: set[str] = set()
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=[*columns, DECISION]):
                table = pa.Table.from_batches([batch])
                ids.update(table.filter(which(table))[DECISION].cast(pa.string()).to_pylist())
        return ids

    def remove(self, path: Path) -> int | None:
        """Take the rows out of a table; returns how many, and None if the table is about something else."""
        wanted = self.of(path, pq.read_schema(path))
        return None if wanted is None else remove_rows(path, *wanted)


def remove_rows(path: Path, columns: Collection[str], which: Which) -> int:
    """Rewrite a Parquet file without some rows, in one step; returns how many went. A file without them is not touched.

    `columns` are those that `which` reads.
    """
    with pq.ParquetFile(path) as file:
        batches = file.iter_batches(columns=list(columns))
        removed = sum(_count(which(pa.Table.from_batches([batch]))) for batch in batches)
        if removed:
            groups = range(file.metadata.num_row_groups)
            codec = file.metadata.row_group(0).column(0).compression
            with replacing(path, durable=True) as unfinished:
                with pq.ParquetWriter(unfinished, file.schema_arrow, compression=codec) as writer:
                    for group in groups:
                        rows = file.read_row_group(group)
                        writer.write_table(rows.filter(pc.invert(which(rows))))
                shutil.copymode(path, unfinished)
            path.with_name(f".{path.name}.crc").unlink(missing_ok=True)  # Spark's checksum of what it was
    return removed


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


def _count(which: pa.ChunkedArray) -> int:
    return int(pc.sum(which, min_count=0).as_py())
