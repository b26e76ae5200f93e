"""Runs the queries over a lake on DuckDB or Spark; both return equal rows.

    with open_database(lake) as db:                        # $ENGINE: duckdb (default) or spark
        db.keep("recent", f"SELECT * FROM {lake.records(db, 'decision', since)}")
        db.execute("SELECT arm, count(*) FROM recent GROUP BY arm").fetchall()

Queries are written in DuckDB's SQL, limited to what Spark supports or `spark.py` translates. Times are in UTC.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from features.engine import open_engine
from mtorl.log.decision_ids import BUCKETS
from mtorl.log.lake import HOUR_OF, Lake, lake_database
from mtorl.runtime.files import replacing
from mtorl.runtime.sql import sql_text

if TYPE_CHECKING:
    from features.collect.spark import Spark

Database: TypeAlias = "DuckDB | Spark"
_MEMORY = "500MB"
_AS_PARQUET = "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1"  # higher levels are slower and save little space
_PARQUET: dict[str, Any] = {"compression": "zstd", "compression_level": 1}
_SLICE_ROWS, _GROUP_ROWS = 30_000, 122_880  # a row has about 2 kB
_AT_ONCE = 500  # rows that a thread buffers while it splits them into files; 4,000 need more than 150 MB


class DuckDB:
    """A database in this process, with bounded memory, of the records of a lake.

    Attributes:
        connection: For queries in DuckDB's own SQL.
        failures: Types of the errors that a query raises on an unreadable file.
        part_bytes: Bytes of files that one call of `write_hours` should read at most.
    """

    failures: tuple[type[Exception], ...] = (duckdb.Error,)
    part_bytes = 256 << 20

    def __init__(self, connection: duckdb.DuckDBPyConnection, lake: Lake) -> None:
        self.connection, self._lake = connection, lake

    def execute(self, query: str, /) -> Any:
        """Run a query and return an object with `fetchall`."""
        return self.connection.execute(query)

    def view(self, name: str, query: str) -> None:
        """Create a view of a query."""
        self.execute(f"CREATE OR REPLACE VIEW {name} AS {query}")

    def keep(self, name: str, query: str) -> None:
        """Create a table of a query's rows, in a file, because the rows may not fit in memory."""
        self.execute(f"CREATE OR REPLACE TABLE {name} AS {query}")

    def add(self, name: str, table: pa.Table) -> None:
        """Create a view of a table in memory."""
        self.connection.register(name, table)

    def write(self, query: str, path: Path, order: Sequence[str] = ()) -> None:
        """Write a query's rows atomically as one Parquet file."""
        ordered = f" ORDER BY {', '.join(order)}" if order else ""
        with replacing(path) as unfinished:
            self.execute(f"COPY (SELECT * FROM ({query}){ordered}) TO {sql_text(unfinished)} ({_AS_PARQUET})")

    def write_hours(
        self, query: str, order: Sequence[str], name: Callable[[datetime, int, int], str], once: Callable[[str], str]
    ) -> list[str]:
        """Write each `hour` of a query to one sorted file of the lake; returns the names of the files.

        Sorting wide rows takes more memory than DuckDB is given, so it sorts the user buckets in slices.

        Args:
            order: SQL of the columns to sort by; the first one is the user bucket.
            name: Returns the name of a file from its hour, its number and how many files the hour has.
            once: Given SQL of all rows of some users, returns SQL of these rows without repeated records.
        """
        self.keep("to_write", query)
        ((count,),) = self.execute("SELECT count(*) FROM to_write").fetchall()
        slices = min(BUCKETS, 1 + count // _SLICE_ROWS)
        bucket = f"coalesce(CAST(lpad(CAST({order[0]} AS VARCHAR), 2, '0') AS INTEGER), 0)"
        files: dict[datetime, pq.ParquetWriter] = {}
        with TemporaryDirectory(prefix="mtorl-hours-") as scratch:
            self.execute(f"SET partitioned_write_flush_threshold = {_AT_ONCE}")
            self.execute(
                f"""COPY (SELECT *, {bucket} * {slices} // {BUCKETS} AS slice_of FROM to_write) TO {sql_text(scratch)}
                (FORMAT parquet, COMPRESSION lz4_raw, PARTITION_BY (slice_of), OVERWRITE_OR_IGNORE)"""
            )
            self.execute("DROP TABLE to_write")
            with ExitStack() as opened:
                for part in sorted(Path(scratch).glob("slice_of=*"), key=lambda path: int(path.name[9:])):
                    there = f"read_parquet({sql_text(part / '*.parquet')}, hive_partitioning = false)"
                    rows = self.connection.sql(
                        f"SELECT * FROM ({once(there)}) ORDER BY hour, {', '.join(order)}"
                    ).to_arrow_table()
                    shutil.rmtree(part)
                    for hour, run in _runs(rows["hour"]):
                        if hour not in files:
                            file = Path(scratch, f"{hour:{HOUR_OF}}.parquet")
                            files[hour] = opened.enter_context(pq.ParquetWriter(file, rows.schema, **_PARQUET))
                        files[hour].write_table(rows.slice(*run), row_group_size=_GROUP_ROWS)
            written = []
            for hour in sorted(files):
                written.append(name(hour.astimezone(UTC), 0, 1))
                self._lake.put(Path(scratch, f"{hour:{HOUR_OF}}.parquet"), written[-1])
        return written


def _runs(column: pa.Array | pa.ChunkedArray) -> Iterator[tuple[Any, tuple[int, int]]]:
    """Yield each value of a sorted column with the position of its first row and its number of rows."""
    begin = 0
    for run in column.value_counts().to_pylist():
        yield run["values"], (begin, run["counts"])
        begin += run["counts"]


def table(files: Sequence[Path]) -> str:
    """Return SQL for a table of Parquet files, on a local disk or on a volume that all executors mount."""
    names = ", ".join(sql_text(file.absolute()) for file in files)
    return f"read_parquet([{names}], union_by_name = true, hive_partitioning = false)"


@contextmanager
def open_database(lake: Lake, engine: str = "") -> Iterator[Database]:
    """Open the named engine, else the engine in $ENGINE, else DuckDB, for a lake of any size."""
    engine = engine or os.environ.get("ENGINE", "") or "duckdb"
    if engine == "duckdb":
        with open_duckdb(lake) as db:
            yield db
        return
    with open_engine(engine):
        from features.collect.spark import Spark

        with closing(Spark(lake)) as spark:
            yield spark


@contextmanager
def open_duckdb(lake: Lake) -> Iterator[DuckDB]:
    """Open DuckDB for a lake; $ENGINE is ignored."""
    with lake_database(lake, _MEMORY) as connection:
        yield DuckDB(connection, lake)
