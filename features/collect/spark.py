"""Runs the queries of collecting on Spark, and writes files as DuckDB does.

sqlglot, which Ibis brings, translates most of DuckDB's SQL; `error`, `list_sum` and `json_transform` (`from_json`) are
translated below. On a cluster, decision log, store and the folder of the log are on a volume that the driver and all
executors see.
"""

from __future__ import annotations

import json
import os
import secrets
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import sqlglot
from py4j.protocol import Py4JError
from pyspark import StorageLevel
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from sqlglot import exp

from features.collect.sql import PARTITIONS, chosen
from mtorl.log.records import Kind, sql_columns
from mtorl.runtime.files import remove, replacing

_SUM = sqlglot.parse_one("aggregate(:numbers, CAST(0 AS DOUBLE), (total, number) -> total + number)", read="spark")


class Spark:
    """The methods of `DuckDB`; one query does what DuckDB does file by file and hour by hour."""

    failures: tuple[type[Exception], ...] = (PySparkException, Py4JError, pa.ArrowException, FileNotFoundError)
    at_once: int | None = None

    def __init__(self) -> None:
        self._session = SparkSession.active()
        self._session.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")  # else it reads no such file at all
        self._views: list[str] = []
        self._kept: list[DataFrame] = []

    def rows(self, query: str) -> list[Any]:
        """All rows of a query."""
        table = self._frame(query).toArrow()
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))

    def table(self, files: Sequence[Path]) -> str:
        """SQL of a table of files."""
        return self._named(self._session.read.parquet(*map(_place, files)))

    def records(self, kind: Kind, files: Sequence[Path], by_hour: bool = False) -> str:
        """SQL of a table of the records in some files."""
        types = {name: _type(type_) for name, type_ in sql_columns(kind).items()}
        columns = types | {name: _type(type_) for name, type_ in PARTITIONS.items() if by_hour}
        frame = self._session.createDataFrame([], ", ".join(f"{name} {type_}" for name, type_ in columns.items()))
        for there, same in _by_columns(files).items():
            values = {name: _value(name, dict(there)[name]) for name in types}
            selected = [f"CAST({values[name]} AS {type_}) AS {name}" for name, type_ in types.items()]
            selected += [_of_folder(name) for name in PARTITIONS if by_hour]
            frame = frame.unionAll(self._session.read.parquet(*map(_place, same)).selectExpr(*selected))
        return chosen(kind, self._named(frame), by_hour)

    def view(self, name: str, query: str) -> None:
        """Give a query a name."""
        self._named(self._frame(query), name)

    def keep(self, name: str, query: str) -> None:
        """Give the rows of a query a name, on the disks of the executors."""
        self._kept.append(self._frame(query).persist(StorageLevel.DISK_ONLY))
        self._named(self._kept[-1], name)

    def add(self, name: str, table: pa.Table) -> None:
        """Give a table in memory a name."""
        self._named(self._session.createDataFrame(table), name)

    def write(self, query: str, path: Path, order: Sequence[str] = ()) -> None:
        """Write a query's rows as one file, which one task does: a training reads it on one machine."""
        frame = self._frame(query).repartition(1)
        frame = frame.sortWithinPartitions(*order) if order else frame
        with _written(frame.write, path.parent) as folder, replacing(path) as unfinished:
            os.replace(_part_of(folder), unfinished)

    def write_hours(self, query: str, files: Mapping[datetime, Path]) -> None:
        """Write each hour to a file of its own, all at once."""
        if not files:
            return
        hours = f"SELECT *, strftime(hour, '%Y-%m-%d') AS in_date, strftime(hour, '%H') AS in_hour FROM ({query})"
        # Whole hours in a task, so that each is one file.
        frame = self._frame(hours).drop("hour").repartition(len(files), "in_date", "in_hour")
        store = next(iter(files.values())).parents[2]
        with _written(frame.write.partitionBy("in_date", "in_hour"), store) as folder:
            for hour, path in files.items():
                with replacing(path, durable=True) as unfinished:
                    part = _part_of(folder / f"in_date={hour:%Y-%m-%d}" / f"in_hour={hour:%H}")
                    os.replace(part, unfinished)

    def can_read(self, file: Path, whole: bool) -> bool:
        """Whether a file can be read."""
        try:
            pq.read_metadata(file)
            if whole:
                self._session.read.parquet(_place(file)).write.format("noop").mode("overwrite").save()
        except (pa.ArrowException, OSError, *self.failures):
            return False
        return True

    @contextmanager
    def beside(self) -> Iterator[Spark]:
        """The same tables for another thread."""
        yield self

    def close(self) -> None:
        """Forget tables and rows."""
        for name in self._views:
            self._session.catalog.dropTempView(name)
        for frame in self._kept:
            frame.unpersist()

    def _frame(self, query: str) -> DataFrame:
        return self._session.sql(spark_sql(query))

    def _named(self, frame: DataFrame, name: str = "") -> str:
        name = name or f"files_{secrets.token_hex(8)}"
        frame.createOrReplaceTempView(name)
        self._views.append(name)
        return name


def spark_sql(query: str) -> str:
    """A query of DuckDB's SQL in Spark's."""
    tree = sqlglot.parse_one(query, read="duckdb")
    return str(tree.transform(_said_otherwise).sql("spark"))


def _said_otherwise(node: Any) -> Any:
    """Translates what sqlglot would leave as it is."""
    if isinstance(node, exp.Anonymous):
        match node.name.lower(), node.expressions:
            case "json_transform", [value, fields]:
                declared = exp.Literal.string(_ddl(json.loads(fields.this)))
                return exp.Anonymous(this="from_json", expressions=[value, declared])
            case "error", [message]:
                return exp.Anonymous(this="raise_error", expressions=[message])
            case "list_sum", [numbers]:
                return exp.replace_placeholders(_SUM, numbers=numbers)
    return node


def _ddl(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name.replace('`', '``')}` {_type(type_)}" for name, type_ in fields.items())


def _type(type_: Any) -> str:
    return f"STRUCT<{_ddl(type_)}>" if isinstance(type_, dict) else exp.DataType.build(type_, "duckdb").sql("spark")


def _by_columns(files: Sequence[Path]) -> dict[tuple[tuple[str, str], ...], list[Path]]:
    """Files by names and types of their columns: given a type that is not a file's own, Spark reads other numbers."""
    found = defaultdict(list)
    for file in files:
        found[tuple((field.name, str(field.type)) for field in pq.read_schema(file))].append(file)
    return found


def _value(name: str, type_: str) -> str:
    """SQL of a column of a file, by its type there."""
    # Spark has no such times, and reads numbers.
    return f"timestamp_micros({name} DIV 1000)" if type_.startswith("timestamp[ns") else name


def _of_folder(name: str) -> str:
    """What a store's folder says of the hour of a file in it."""
    return f"regexp_extract(_metadata.file_path, '/{name}=([0-9-]+)/', 1) AS {name}"


def _place(path: Path) -> str:
    return str(path.absolute())


@contextmanager
def _written(writer: Any, beside: Path) -> Iterator[Path]:
    """A hidden folder with what was written, which is removed at the end."""
    folder = beside.absolute() / f".spark.{secrets.token_hex(4)}"
    try:
        writer.parquet(str(folder))
        yield folder
    finally:
        remove(folder)


def _part_of(folder: Path) -> Path:
    (part,) = folder.glob("part-*.parquet")
    return part
