"""Runs the queries of collecting on DuckDB or Spark, with equal rows.

    with open_database() as db:                            # $ENGINE: duckdb (default) or spark
        db.keep("recent", f"SELECT * FROM {db.records('decision', files)} WHERE event_time > {bound}")
        db.rows("SELECT arm, count(*) FROM recent GROUP BY arm")

Queries are in DuckDB's SQL, as far as Spark has the same or `spark.py` has a translation. Times are in UTC.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from features.collect.sql import PARTITIONS, chosen, instant
from features.engine import text
from mtorl.log.records import Kind, sql_columns
from mtorl.runtime.files import naming_full_disk, replacing
from mtorl.runtime.progress import without_progress_bar

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from features.collect.spark import Spark

Database: TypeAlias = "DuckDB | Spark"
_MEMORY = "1500MB"
_LEVEL = 1  # of compression: more takes longer and saves little


class DuckDB:
    """Tables of records and files made of them: one process, all cores, bounded memory.

    Attributes:
        connection: For queries in DuckDB's own SQL.
        failures: Errors of a query that meets an unreadable file.
        at_once: Files, or hours, that one query should take; None for all.
    """

    at_once: int | None = 1

    def __init__(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> None:
        import duckdb

        self.failures: tuple[type[Exception], ...] = (duckdb.Error,)
        self.connection = connection
        self._scratch = scratch
        self.rows("SET TimeZone = 'UTC'")

    def rows(self, query: str) -> list[Any]:
        """All rows of a query."""
        return self.connection.execute(query).fetchall()

    def table(self, files: Sequence[Path]) -> str:
        """SQL of a table of files."""
        return _read(files, "hive_partitioning = false")

    def records(self, kind: Kind, files: Sequence[Path], by_hour: bool = False) -> str:
        """SQL of a table of the records in some files, with all columns of today's records in their types.

        With `by_hour` the files are a store's, and `hour` is one more column.
        """
        columns = sql_columns(kind) | (PARTITIONS if by_hour else {})
        found = f"SELECT {', '.join(f'NULL::{type_} AS {name}' for name, type_ in columns.items())} WHERE false"
        if files:
            folders = f"hive_partitioning = {by_hour}, hive_types_autocast = false"
            found += f" UNION ALL BY NAME FROM {_read(files, folders)}"
        return chosen(kind, f"({found})", by_hour)

    def view(self, name: str, query: str) -> None:
        """Give a query a name."""
        self.rows(f"CREATE VIEW {name} AS {query}")

    def keep(self, name: str, query: str) -> None:
        """Compute the rows of a query once and name them; they lie in a file, for they may not fit in memory."""
        file = self._scratch / f"{name}.parquet"
        self.rows(f"COPY ({query}) TO {text(file)} (FORMAT parquet)")
        self.view(name, f"SELECT * FROM {self.table([file])}")

    def add(self, name: str, table: pa.Table) -> None:
        """Give a table in memory a name."""
        self.connection.register(name, table)

    def write(self, query: str, path: Path, order: Sequence[str] = ()) -> None:
        """Write a query's rows as one Parquet file, which appears whole or not at all."""
        ordered = f" ORDER BY {', '.join(order)}" if order else ""
        with replacing(path) as unfinished:
            self._copy(f"SELECT * FROM ({query}){ordered}", unfinished)

    def write_hours(self, query: str, files: Mapping[datetime, Path]) -> None:
        """Write each `hour` of a query to a file of its own, durably, without that column.

        The query has rows of these hours and of no others.
        """
        for hour, path in files.items():
            with replacing(path, durable=True) as unfinished:
                self._copy(f"SELECT * EXCLUDE (hour) FROM ({query}) WHERE hour = {instant(hour)}", unfinished)

    def can_read(self, file: Path, whole: bool) -> bool:
        """Whether a file has its footer, which is written last; or whether all of it can be read."""
        try:
            self.rows(f"SELECT {'max(hash(record))' if whole else 'count(*)'} FROM {self.table([file])} AS record")
        except self.failures:
            return False
        return True

    @contextmanager
    def beside(self) -> Iterator[Database]:
        """The same tables for another thread."""
        with self.connection.cursor() as connection:
            yield DuckDB(connection, self._scratch)

    def _copy(self, query: str, path: Path) -> None:
        self.rows(f"COPY ({query}) TO {text(path)} (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL {_LEVEL})")


def _read(files: Sequence[Path], folders: str) -> str:
    """SQL of Parquet files, whose columns may differ in type: pandas writes times of its own."""
    return f"read_parquet([{', '.join(map(text, files))}], union_by_name = true, {folders})"


@contextmanager
def open_database(engine: str = "") -> Iterator[Database]:
    """Open duckdb or spark for a log of any size; an empty name takes $ENGINE, else DuckDB."""
    engine = engine or os.environ.get("ENGINE", "") or "duckdb"
    if engine == "duckdb":
        with open_duckdb() as db:
            yield db
        return
    from features.engine import open_engine

    with open_engine(engine):
        from features.collect.spark import Spark

        spark = Spark()
        try:
            yield spark
        finally:
            spark.close()


@contextmanager
def open_duckdb() -> Iterator[DuckDB]:
    """Open DuckDB, with $ENGINE ignored."""
    import duckdb

    with (
        naming_full_disk(Path(tempfile.gettempdir())),
        tempfile.TemporaryDirectory(prefix="mtorl-collect-") as scratch,
        duckdb.connect(config={"memory_limit": _MEMORY, "temp_directory": scratch}) as connection,
    ):
        without_progress_bar(connection)
        db = DuckDB(connection, Path(scratch))
        db.rows("SET preserve_insertion_order = false")
        yield db
