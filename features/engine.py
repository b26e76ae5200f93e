"""Engines that run Ibis expressions, with equal results: DuckDB in this process, or Spark on a cluster.

    with open_engine() as engine:                      # $ENGINE: duckdb (default) or spark
        log = engine.read("touchpoints.parquet")       # an ibis.Table; nothing is read yet
        engine.write(log.filter(log.click == 1), "clicks.parquet")

On a cluster, all files must be on a volume that the driver and all executors mount.
"""

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePath
from typing import Any, TypeAlias

import ibis
import ibis.expr.datatypes as dt
import pyarrow as pa
import pyarrow.parquet as pq

from mtorl.log.touchpoints import fingerprint
from mtorl.runtime.errors import InputError
from mtorl.runtime.files import remove, replacing
from mtorl.runtime.progress import reporting_queries

ENGINES = ("duckdb", "spark")
# Above this limit, DuckDB writes temporary data to disk.
MEMORY_LIMIT = "2GB"
# Number of rows that each thread of DuckDB buffers per shard.
_FLUSH_ROWS = 16 * 1024

# Ibis lacks these functions, so each engine provides them in SQL.


@ibis.udf.scalar.builtin(signature=((dt.timestamp,), dt.int64))
def unix_micros(time):
    """Convert a time to microseconds since 1970."""


@ibis.udf.scalar.builtin(signature=((dt.int64,), dt.Timestamp(timezone="UTC", scale=6)))
def timestamp_micros(micros):
    """Convert microseconds since 1970 to a time."""


@ibis.udf.scalar.builtin(signature=((dt.string,), dt.int64))
def user_bucket(user_id):
    """Hash a user id to a number from 0 to 65535: the last two bytes of its MD5."""


BUCKETS = 65_536
Build = Callable[[ibis.Table], ibis.Table]


class DuckDBEngine:
    """Runs expressions on DuckDB in this process, on all cores and with limited memory."""

    name = "duckdb"
    connection: Any  # an Ibis backend

    def __init__(self, temporary: Path) -> None:
        # Ibis sets the time zone to UTC.
        self.connection = ibis.duckdb.connect(
            memory_limit=MEMORY_LIMIT,
            temp_directory=str(temporary),
            preserve_insertion_order=False,
            partitioned_write_flush_threshold=_FLUSH_ROWS,
        )
        self._open = ExitStack()
        self._open.enter_context(reporting_queries(self.connection.con))
        for macro in (
            "unix_micros(time) AS epoch_us(time)",
            "timestamp_micros(micros) AS make_timestamptz(CAST(micros AS BIGINT))",
            "user_bucket(user_id) AS CAST(md5_number(user_id) >> 112 AS BIGINT)",
        ):
            self.connection.raw_sql(f"CREATE TEMP MACRO {macro}")

    def read(self, path: Path | str) -> ibis.Table:
        """Return a lazy table of a Parquet file or a folder of parts."""
        return self.connection.read_parquet([str(file) for file in parquet_files(path)])

    def write(self, table: ibis.Table, path: Path | str) -> None:
        """Write a table as one Parquet file, which replaces an earlier file atomically."""
        with replacing(Path(path)) as temporary:
            self.connection.to_parquet(table, str(temporary), compression="zstd")

    def write_shards(
        self, table: ibis.Table, build: Build, folder: Path, shards: int, written: Callable[[Path], None]
    ) -> None:
        """Write `build(table)` as files folder/part-00000.parquet and so on, each sorted by user_id and timestamp.

        Args:
            build: Function that computes the rows to write from all rows of some users.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if shards == 1:
            written(self._write_shard(build(table), folder, 0))
            return
        raw = folder / ".raw"
        try:
            self.connection.to_parquet(
                table.mutate(shard=_shard(table, shards)), str(raw), partition_by=("shard",), compression="lz4"
            )
            for shard in range(shards):
                if (part := raw / f"shard={shard}").exists():
                    written(self._write_shard(build(self.read(part).drop("shard")), folder, shard))
                    shutil.rmtree(part)
        finally:
            remove(raw)

    def close(self) -> None:
        """Close the connection."""
        self._open.close()
        self.connection.disconnect()

    def _write_shard(self, table: ibis.Table, folder: Path, shard: int) -> Path:
        path = folder / _shard_file(shard)
        self.write(table.order_by("user_id", "timestamp"), path)
        return path


class SparkEngine:
    """Runs expressions on Spark, with Spark's own configuration. A table is written as a folder of Parquet parts."""

    name = "spark"
    connection: Any

    def __init__(self, temporary: Path) -> None:
        session, self._ours = _spark_session(temporary / "spark.log")
        context = session.sparkContext
        if context.master.startswith("local") and not context.getConf().contains("spark.sql.shuffle.partitions"):
            session.conf.set("spark.sql.shuffle.partitions", str(context.defaultParallelism))  # Spark's default is 200
        session.conf.set("spark.sql.session.timeZone", "UTC")
        session.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
        session.conf.set("spark.sql.parquet.compression.codec", "zstd")
        # With a limit, Spark would split a large shard into several files.
        session.conf.set("spark.sql.files.maxRecordsPerFile", "0")
        session.sql(
            "CREATE OR REPLACE TEMPORARY FUNCTION user_bucket(user_id STRING) RETURNS BIGINT RETURN "
            "CAST(conv(concat(substr(md5(user_id), 31, 2), substr(md5(user_id), 29, 2)), 16, 10) AS BIGINT)"
        )
        self.connection = ibis.pyspark.connect(session)
        self._session = session

    def read(self, path: Path | str) -> ibis.Table:
        """Return a lazy table of a Parquet file or a folder of parts."""
        return self.connection.read_parquet(str(Path(path).absolute()))

    def write(self, table: ibis.Table, path: Path | str) -> None:
        """Write a table as a folder of Parquet parts, which replaces an earlier folder."""
        with replacing(Path(path).absolute()) as temporary:
            self._frame(table).write.parquet(str(temporary))

    def write_shards(
        self, table: ibis.Table, build: Build, folder: Path, shards: int, written: Callable[[Path], None]
    ) -> None:
        """Write `build(table)` in shards of whole users, as `DuckDBEngine.write_shards` does."""
        built = build(table)
        frame = self._frame(built.mutate(shard=_shard(built, shards)))
        # Spark writes partition k to a file whose name starts with part-k.
        frame = frame.repartitionById(shards, "shard").sortWithinPartitions("user_id", "timestamp").drop("shard")
        raw = folder.absolute() / ".raw"
        try:
            frame.write.parquet(str(raw))
            for part in sorted(raw.glob("part-*.parquet")):
                written(part.replace(folder / _shard_file(int(part.name.split("-")[1]))))
        finally:
            remove(raw)

    def close(self) -> None:
        """Close the connection."""
        if self._ours:
            self.connection.disconnect()

    def _frame(self, table: ibis.Table) -> Any:
        return self._session.sql(ibis.to_sql(table, dialect="pyspark"))


def _spark_session(log: Path) -> tuple[Any, bool]:
    """Return Spark's session in this process, and True if this function started the session."""
    try:
        from pyspark import SparkConf, SparkContext
        from pyspark.java_gateway import launch_gateway
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise InputError("ENGINE=spark needs PySpark: pip install 'mtorl-kubeflow[spark]'") from error
    if session := SparkSession.getActiveSession():
        return session, False
    # spark-submit sets this variable, and has already started the Java process.
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    java = os.environ.get("JAVA_HOME") or shutil.which("java")
    if not submitted and not java:
        raise InputError("ENGINE=spark needs Java 17 or 21: install it (openjdk-17-jre-headless) or set JAVA_HOME")
    settings = {
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        # Without this setting, Spark writes to the current folder.
        "spark.sql.warehouse.dir": str(log.with_name("warehouse")),
    }
    conf = SparkConf(loadDefaults=False).setAll(list(settings.items()))
    gateway = SparkContext._gateway
    if gateway is None:
        try:
            # Until Spark has set up its logging, Java prints errors to this file.
            with log.open("wb") as console:
                gateway = launch_gateway(conf, popen_kwargs={"stderr": console})
        except Exception as error:
            printed = log.read_text(errors="replace").strip().splitlines()[-3:]
            raise InputError(f"ENGINE=spark: Spark did not start: {' | '.join(printed) or error}") from error
    conf = SparkConf(_jvm=gateway.jvm).setAll(list(settings.items())).setIfMissing("spark.app.name", "mtorl-features")
    if conf.get("spark.master", "local").startswith("local"):
        # The default is `python3`, which may be another Python version, with which the workers fail.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    return SparkSession(SparkContext(gateway=gateway, conf=conf)), True


Engine: TypeAlias = DuckDBEngine | SparkEngine


def _shard_file(shard: int) -> str:
    return f"part-{shard:05d}.parquet"


def _shard(table: ibis.Table, shards: int) -> ibis.Value:
    return (user_bucket(table.user_id) * shards // BUCKETS).cast("int32")


def is_unfinished(path: PurePath) -> bool:
    """Return True if a path belongs to an unfinished write, such as _temporary/... or .part-0.parquet."""
    return any(part.startswith(("_", ".")) for part in path.parts)


def parquet_files(path: Path | str) -> list[Path]:
    """Return the Parquet file at a path, or the parts in a folder, sorted by name.

    Raises:
        FileNotFoundError: There is no Parquet file at the path.
    """
    path = Path(path)
    parts = (part for part in path.rglob("*.parquet") if part.is_file())
    files = sorted(p for p in parts if not is_unfinished(p.relative_to(path))) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise FileNotFoundError(f"{path}: no Parquet file, nor a folder with parts")
    return files


def batches(path: Path | str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file, or of the parts in a folder, in batches."""
    for file in parquet_files(path):
        with pq.ParquetFile(file) as parquet:
            yield from parquet.iter_batches()


def rows_of(log: Path | str) -> int:
    """Count the rows of a Parquet file or of all parts in a folder, without reading the rows."""
    return sum(pq.read_metadata(file).num_rows for file in parquet_files(log))


def facts_of(log: Path) -> dict[str, Any]:
    """Return the number of rows, the number of users and the fingerprint of a log, named as in ingest.json."""
    with open_engine("duckdb") as engine:
        users = engine.read(log).user_id.nunique().to_pyarrow().as_py()
    return {"rows": rows_of(log), "users": users, "fingerprint": fingerprint(batches(log))}


@contextmanager
def open_engine(name: str = "") -> Iterator[Engine]:
    """Open an engine. If `name` is empty, the environment variable ENGINE names it. The default is DuckDB.

    Raises:
        InputError: Spark can't run, for example because Java is missing.
        ValueError: The name is not one of `ENGINES`.
    """
    name = name or os.environ.get("ENGINE", "") or "duckdb"
    if name not in ENGINES:
        raise ValueError(f"ENGINE: {name!r} is not one of {', '.join(ENGINES)}")
    with tempfile.TemporaryDirectory(prefix="mtorl-engine-") as temporary, warnings.catch_warnings():
        # Ibis calls a deprecated method of DuckDB, and users can't act on the warning.
        warnings.filterwarnings("ignore", r"fetch_arrow_table\(\) is deprecated", DeprecationWarning)
        engine = (DuckDBEngine if name == "duckdb" else SparkEngine)(Path(temporary))
        try:
            yield engine
        finally:
            engine.close()
