"""Runs SQL queries on the records of a lake, with DuckDB or Spark. Both engines return equal rows.

    with open_database(lake) as db:                        # $ENGINE: duckdb (default) or spark
        db.keep("recent", f"SELECT * FROM {lake.records(db, 'decision', since)}")
        db.execute("SELECT arm, count(*) FROM recent GROUP BY arm").fetchall()

Queries are written in DuckDB's SQL, which `spark.py` translates for Spark.
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
# Higher compression levels take longer and hardly make the files smaller.
_AS_PARQUET = "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1"
_PARQUET: dict[str, Any] = {"compression": "zstd", "compression_level": 1}
# Number of rows to sort at once, and number of rows in a Parquet row group. A row takes about 2 kB.
_SLICE_ROWS, _GROUP_ROWS = 30_000, 122_880
# Number of rows that each DuckDB thread buffers. With 4,000 rows, DuckDB would need more than 150 MB.
_AT_ONCE = 500


class DuckDB:
    """Runs queries on the records of a lake with DuckDB, in this process and with limited memory.

    Attributes:
        failures: Exceptions that a query raises if a file is damaged.
        part_bytes: Limit in bytes for the total size of the files that one call of `write_hours` reads.
    """

    failures: tuple[type[Exception], ...] = (duckdb.Error,)
    part_bytes = 256 << 20

    def __init__(self, connection: duckdb.DuckDBPyConnection, lake: Lake) -> None:
        self.connection, self._lake = connection, lake

    def execute(self, query: str, /) -> Any:
        """Run a query. The result has the method `fetchall`."""
        return self.connection.execute(query)

    def view(self, name: str, query: str) -> None:
        """Create a view, which runs `query` each time it is read."""
        self.execute(f"CREATE OR REPLACE VIEW {name} AS {query}")

    def keep(self, name: str, query: str) -> None:
        """Run a query once and store its rows as a table in a temporary file."""
        self.execute(f"CREATE OR REPLACE TABLE {name} AS {query}")

    def add(self, name: str, table: pa.Table) -> None:
        """Make an Arrow table available to queries as the view `name`."""
        self.connection.register(name, table)

    def write(self, query: str, path: Path, order: Sequence[str] = ()) -> None:
        """Write the rows of a query to one Parquet file, sorted by the columns in `order`."""
        ordered = f" ORDER BY {', '.join(order)}" if order else ""
        with replacing(path) as unfinished:
            self.execute(f"COPY (SELECT * FROM ({query}){ordered}) TO {sql_text(unfinished)} ({_AS_PARQUET})")

    def write_hours(
        self, query: str, order: Sequence[str], name: Callable[[datetime, int, int], str], once: Callable[[str], str]
    ) -> list[str]:
        """Write the rows of `query` to the lake, as one sorted file for each value of the column `hour`.

        Args:
            order: SQL expressions to sort by. The first one must be the user bucket.
            once: Function that adds the removal of repeated records to the SQL of a table.

        Returns:
            The names of the files.
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
    """Yield each distinct value of a sorted column, with the position of its first row and its number of rows."""
    begin = 0
    for run in column.value_counts().to_pylist():
        yield run["values"], (begin, run["counts"])
        begin += run["counts"]


def table(files: Sequence[Path]) -> str:
    """Return an SQL expression that reads some Parquet files as one table."""
    names = ", ".join(sql_text(file.absolute()) for file in files)
    return f"read_parquet([{names}], union_by_name = true, hive_partitioning = false)"


@contextmanager
def open_database(lake: Lake, engine: str = "") -> Iterator[Database]:
    """Open a database for queries on `lake`. If `engine` is empty, $ENGINE decides, then DuckDB."""
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
    """Open a DuckDB database that queries `lake`, even if $ENGINE names another engine."""
    with lake_database(lake, _MEMORY) as connection:
        yield DuckDB(connection, lake)
