"""Runs SQL queries on the records of a lake with Spark. The written files have the same rows as those of DuckDB."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import sqlglot
from py4j.protocol import Py4JError
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from sqlglot import exp

from mtorl.log.lake import HOUR_OF, Lake, hour_written
from mtorl.runtime.duckdb_files import SCHEME
from mtorl.runtime.files import replacing

_SUM = sqlglot.parse_one("aggregate(:numbers, CAST(0 AS DOUBLE), (total, number) -> total + number)", read="spark")


class Spark:
    """A database with the same methods as `DuckDB`, which runs its queries on Spark's executors."""

    failures: tuple[type[Exception], ...] = (PySparkException, Py4JError)
    part_bytes = 1 << 60  # effectively no limit

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._session = SparkSession.active()
        self._session.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")  # else Spark can't read nanoseconds
        self._kept: list[DataFrame] = []

    def execute(self, query: str, /) -> _Answer:
        """Run a query. The result has the method `fetchall`."""
        table = self._frame(query).toArrow()
        return _Answer(zip(*(column.to_pylist() for column in table.columns), strict=True))

    def view(self, name: str, query: str) -> None:
        """Create a view, which runs `query` each time it is read."""
        self._named(self._frame(query), name)

    def keep(self, name: str, query: str) -> None:
        """Run a query once and store its rows on the disks of the executors."""
        self._kept.append(self._frame(query).persist(StorageLevel.DISK_ONLY))
        self._named(self._kept[-1], name)

    def add(self, name: str, table: pa.Table) -> None:
        """Make an Arrow table available to queries as the view `name`."""
        self._named(self._session.createDataFrame(table), name)

    def write(self, query: str, path: Path, order: Sequence[str] = ()) -> None:
        """Write the rows of a query to a folder of sorted Parquet files. All rows of a user are in the same file."""
        frame = self._frame(query).repartition("user_id")
        frame = frame.sortWithinPartitions(*order) if order else frame
        with replacing(path.absolute()) as unfinished:
            frame.write.parquet(str(unfinished))

    def write_hours(
        self, query: str, order: Sequence[str], name: Callable[[datetime, int, int], str], once: Callable[[str], str]
    ) -> list[str]:
        """Write the rows of `query` to the lake, as sorted files for each value of the column `hour`."""
        hours = f"SELECT *, strftime(hour, '{HOUR_OF}') AS hour_of FROM ({once(f'({query})')}) AS rows"
        # With this hint, one task writes several small hours, and several tasks share a large hour.
        frame = self._frame(hours).hint("rebalance", "hour_of").sortWithinPartitions("hour_of", *order)
        files, scratch, written = self._lake.files, f".compact.{secrets.token_hex(4)}", []
        try:
            frame.write.partitionBy("hour_of").parquet(self._place(scratch))
            for folder in files.get_file_info(pafs.FileSelector(scratch)):
                if folder.base_name.startswith("hour_of="):
                    hour = hour_written(folder.base_name)
                    parts = [part.path for part in files.get_file_info(pafs.FileSelector(folder.path))]
                    parts = sorted(part for part in parts if part.endswith(".parquet"))
                    for number, part in enumerate(parts):
                        written.append(name(hour, number, len(parts)))
                        files.create_dir(os.path.dirname(written[-1]), recursive=True)
                        files.move(part, written[-1])
        finally:
            if files.get_file_info(scratch).type != pafs.FileType.NotFound:
                files.delete_dir(scratch)
        return written

    def close(self) -> None:
        """Delete the tables of `keep` from the disks of the executors."""
        for frame in self._kept:
            frame.unpersist()

    def _frame(self, query: str) -> DataFrame:
        tree = sqlglot.parse_one(query, read="duckdb")
        for node in list(tree.find_all(exp.ReadParquet)):
            node.replace(exp.to_identifier(self._table([file.this for file in node.expressions[0].expressions])))
        return self._session.sql(tree.transform(_said_otherwise).sql("spark"))

    def _table(self, files: Sequence[str]) -> str:
        places = [self._place(file.removeprefix(SCHEME)) if file.startswith(SCHEME) else file for file in files]
        return self._named(self._session.read.parquet(*places))

    def _place(self, name: str) -> str:
        if self._lake.folder is not None:
            return str(self._lake.folder.absolute() / name)
        return f"{self._lake.place.rstrip('/')}/{name}".replace("s3://", "s3a://", 1)

    def _named(self, frame: DataFrame, name: str = "") -> str:
        name = name or f"files_{secrets.token_hex(8)}"
        frame.createOrReplaceTempView(name)
        return name


class _Answer(list[Any]):
    def fetchall(self) -> list[Any]:
        return self


def _said_otherwise(node: Any) -> Any:
    """Replace a DuckDB function that sqlglot would leave unchanged by the equivalent Spark function."""
    if isinstance(node, exp.Anonymous):
        match node.name.lower(), node.expressions:
            case "json_transform", [value, fields]:
                types = {name: exp.DataType.build(type_, "duckdb") for name, type_ in json.loads(fields.this).items()}
                ddl = ", ".join(f"`{name.replace('`', '``')}` {type_.sql('spark')}" for name, type_ in types.items())
                return exp.Anonymous(this="from_json", expressions=[value, exp.Literal.string(ddl)])
            case "error", [message]:
                return exp.Anonymous(this="raise_error", expressions=[message])
            case "list_sum", [numbers]:
                return exp.replace_placeholders(_SUM, numbers=numbers)
    return node
