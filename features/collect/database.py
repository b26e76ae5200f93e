"""DuckDB as collecting uses it: bounded memory, times in UTC, results that are read to their end, tables of records."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtorl.log.records import Kind, sql_columns
from mtorl.runtime.duckdb_progress import without_progress_bar

if TYPE_CHECKING:
    import duckdb

_MEMORY = "1500MB"


@contextmanager
def limited_database() -> Iterator[tuple[duckdb.DuckDBPyConnection, Path]]:
    """A database for a log of any size, and a folder for files of its own. What does not fit is sorted on disk."""
    import duckdb

    with (
        tempfile.TemporaryDirectory(prefix="mtorl-collect-") as scratch,
        duckdb.connect(config={"memory_limit": _MEMORY, "temp_directory": scratch}) as db,
    ):
        execute(db, "SET TimeZone = 'UTC'")
        without_progress_bar(db)
        execute(db, "SET preserve_insertion_order = false")
        yield db, Path(scratch)


def execute(db: duckdb.DuckDBPyConnection, query: str, parameters: Any = None) -> list[Any]:
    """All rows of a query."""
    return db.execute(query, parameters).fetchall()


def parquet(files: Sequence[Path]) -> str:
    """A table of files, some of which may be older and lack a column."""
    return f"read_parquet([{', '.join(map(text, files))}], union_by_name = true, hive_partitioning = false)"


def records(kind: Kind, files: Sequence[Path]) -> str:
    """A table of the records in some files, with all columns of today's records in their types."""
    columns = sql_columns(kind)
    found = f"SELECT {', '.join(f'NULL::{type_} AS {name}' for name, type_ in columns.items())} WHERE false"
    if files:
        found += f" UNION ALL BY NAME FROM {parquet(files)}"
    chosen = ", ".join(f"CAST({name} AS {type_}) AS {name}" for name, type_ in columns.items())
    return f"(SELECT {chosen} FROM ({found}))"


def text(value: str | Path) -> str:
    """A text in SQL."""
    return "'" + str(value).replace("'", "''") + "'"


def name_of(column: str) -> str:
    """The name of a column in SQL."""
    return '"' + column.replace('"', '""') + '"'
