"""Where the Ibis expressions of this room run: DuckDB on one machine, Spark on a cluster. Same expressions, same rows.

    with open_engine() as engine:                      # $ENGINE: duckdb (default) or spark
        log = engine.read("touchpoints.parquet")       # an ibis.Table; nothing is read yet
        engine.write(log.filter(log.click == 1), "clicks.parquet")

Both work in UTC and spill to disk instead of dying when the data is larger than memory.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ibis

if TYPE_CHECKING:
    from collections.abc import Iterator

ENGINES = ("duckdb", "spark")
MEMORY_LIMIT = "2GB"  # of DuckDB's buffers; what does not fit goes to its temporary folder


class Engine(Protocol):
    """Reads Parquet as Ibis tables and writes expressions back as Parquet."""

    name: str
    connection: Any  # ibis backend; its type differs by engine

    def read(self, path: Path | str) -> ibis.Table:
        """A Parquet file, or a folder of them, as a table."""

    def write(self, table: ibis.Table, path: Path | str) -> None:
        """Write an expression as Parquet in the order that it asks for, replacing what was there in one step.

        DuckDB writes one file, Spark a folder of parts; `read` takes both.
        """


class DuckDBEngine:
    """One process, all cores; memory bounded by `MEMORY_LIMIT`."""

    name = "duckdb"

    def __init__(self, temporary: Path) -> None:
        self.connection = ibis.duckdb.connect(
            memory_limit=MEMORY_LIMIT, temp_directory=str(temporary), TimeZone="UTC", preserve_insertion_order=False
        )

    def read(self, path: Path | str) -> ibis.Table:
        """See `Engine`."""
        path = Path(path)
        return self.connection.read_parquet(str(path / "**" / "*.parquet") if path.is_dir() else str(path))

    def write(self, table: ibis.Table, path: Path | str) -> None:
        """See `Engine`."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self.connection.to_parquet(table, str(temporary), compression="zstd")
            if path.is_dir():
                shutil.rmtree(path)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def open_engine(name: str = "") -> Iterator[Engine]:
    """Open an engine and close it at the end.

    Args:
        name: One of `ENGINES`; empty takes $ENGINE, else DuckDB.

    Raises:
        ValueError: there is no such engine.
    """
    name = name or os.environ.get("ENGINE", "") or "duckdb"
    if name not in ENGINES:
        raise ValueError(f"ENGINE: {name!r} is not one of {', '.join(ENGINES)}")
    with tempfile.TemporaryDirectory(prefix="mtorl-engine-") as temporary:
        engine = DuckDBEngine(Path(temporary))
        try:
            yield engine
        finally:
            engine.connection.disconnect()
