"""Runs the queries over a lake on DuckDB or Spark, with equal rows.

    with open_database(lake) as db:                        # $ENGINE: duckdb (default) or spark
        db.keep("recent", f"SELECT * FROM {lake.records(db, 'decision', since)}")
        db.execute("SELECT arm, count(*) FROM recent GROUP BY arm").fetchall()

Queries are in DuckDB's SQL, as far as Spark has the same or `spark.py` has a translation. Times are in UTC.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

from features.engine import text
from mtorl.log.lake import HOUR_OF, Lake, hour_written, lake_database
from mtorl.runtime.files import replacing

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from features.collect.spark import Spark

Database: TypeAlias = "DuckDB | Spark"
_MEMORY = "600MB"
_AS_PARQUET = "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1"  # more takes longer and saves little


class DuckDB:
    """Tables of records and files made of them: one process, bounded memory.

    Attributes:
        connection: For queries in DuckDB's own SQL.
        failures: Errors of a query that meets an unreadable file.
        part_bytes: Of the files that one `write_hours` should take.
    """

    part_bytes = 256 << 20

    def __init__(self, connection: duckdb.DuckDBPyConnection, lake: Lake) -> None:
        import duckdb

        self.failures: tuple[type[Exception], ...] = (duckdb.Error,)
        self.connection = connection
        self._lake = lake

    def execute(self, query: str, /) -> Any:
        """Run a query; the answer has `fetchall`."""
        return self.connection.execute(query)

    def view(self, name: str, query: str) -> None:
        """Give a query a name."""
        self.execute(f"CREATE OR REPLACE VIEW {name} AS {query}")

    def keep(self, name: str, query: str) -> None:
        """Compute the rows of a query once and name them; they lie in a file, for they may not fit in memory."""
        self.execute(f"CREATE OR REPLACE TABLE {name} AS {query}")

    def add(self, name: str, table: pa.Table) -> None:
        """Give a table in memory a name."""
        self.connection.register(name, table)

    def write(self, query: str, path: Path, order: Sequence[str] = ()) -> None:
        """Write a query's rows as one Parquet file, which appears whole or not at all."""
        ordered = f" ORDER BY {', '.join(order)}" if order else ""
        with replacing(path) as unfinished:
            self.execute(f"COPY (SELECT * FROM ({query}){ordered}) TO {text(unfinished)} ({_AS_PARQUET})")

    def write_hours(self, query: str, order: Sequence[str], name: Callable[[datetime, int, int], str]) -> list[str]:
        """Write each `hour` of a query to files of the lake, sorted; returns their names.

        Args:
            name: The name of a file, by its hour, its number and how many the hour has.
        """
        with TemporaryDirectory(prefix="mtorl-hours-") as scratch:
            self.execute(
                f"""COPY (SELECT *, strftime(hour, '{HOUR_OF}') AS hour_of FROM ({query}) AS rows
                    ORDER BY hour, {", ".join(order)})
                TO {text(scratch)} ({_AS_PARQUET}, PARTITION_BY (hour_of), OVERWRITE true)"""
            )
            written = []
            for folder in sorted(Path(scratch).glob("hour_of=*")):
                hour, files = hour_written(folder.name), sorted(folder.glob("*.parquet"))
                for number, file in enumerate(files):
                    written.append(name(hour, number, len(files)))
                    self._lake.put(file, written[-1])
        return written


def table(files: Sequence[Path]) -> str:
    """SQL of a table of Parquet files of this machine, or of a volume that all executors see."""
    names = ", ".join(text(file.absolute()) for file in files)
    return f"read_parquet([{names}], union_by_name = true, hive_partitioning = false)"


@contextmanager
def open_database(lake: Lake, engine: str = "") -> Iterator[Database]:
    """Open duckdb or spark for a lake of any size; an empty name takes $ENGINE, else DuckDB."""
    engine = engine or os.environ.get("ENGINE", "") or "duckdb"
    if engine == "duckdb":
        with open_duckdb(lake) as db:
            yield db
        return
    from features.engine import open_engine

    with open_engine(engine):
        from features.collect.spark import Spark

        spark = Spark(lake)
        try:
            yield spark
        finally:
            spark.close()


@contextmanager
def open_duckdb(lake: Lake) -> Iterator[DuckDB]:
    """Open DuckDB, with $ENGINE ignored."""
    with lake_database(lake, _MEMORY) as connection:
        yield DuckDB(connection, lake)
