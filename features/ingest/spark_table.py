"""Copies a table of a Spark catalog, spark://TABLE, to this machine before it is read.

    ENGINE=spark mtorl data validate spark://lake.ads.exposures --dataset my-log.yaml

TABLE is a name of Spark SQL: catalog.database.table, or without the session's own. Spark's configuration defines the
catalogs (spark-defaults.conf, spark-submit, a SparkApplication).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from features.engine import open_engine
from mtorl.log.touchpoints import LogError

SCHEME = "spark://"


def copy(address: str, folder: Path) -> Path:
    """Copy a table to a new folder of Parquet parts. On a cluster, all pods must see the folder: it lies in $TMPDIR."""
    with _table(address) as table:
        table.write.parquet(str(folder.absolute()))
    if not list(folder.glob("*.parquet")):
        raise LogError(
            f"{address}: Spark's executors wrote its copy where this process can't read it; set TMPDIR to a folder of "
            "a volume that driver and executors see"
        )
    return folder


def mark(address: str) -> str:
    """A text that changes with the content of a table, which is read for it."""
    with _table(address) as table:
        rows, hashes = table.selectExpr("count(*)", "sum(CAST(xxhash64(*) AS DECIMAL(38)))").first()
    return f"{rows}:{hashes}"


@contextmanager
def _table(address: str) -> Iterator[Any]:
    if os.environ.get("ENGINE") != "spark" and not _spark_is_open():
        raise LogError(
            f"{address}: a table of a Spark catalog is read by Spark: set ENGINE=spark, or export the table to Parquet "
            "and give the path of that"
        )
    with open_engine("spark"):
        from pyspark.errors import AnalysisException, PySparkException
        from pyspark.sql import SparkSession

        try:
            yield SparkSession.active().table(address.removeprefix(SCHEME))
        except AnalysisException as error:
            raise LogError(f"{address}: no such table, or no such catalog: {_first_line(error)}") from None
        except PySparkException as error:
            raise LogError(f"{address}: can't be read: {_first_line(error)}") from None


def _spark_is_open() -> bool:
    """Whether a caller has opened Spark before the log is read."""
    if "pyspark.sql" not in sys.modules:
        return False
    from pyspark.sql import SparkSession

    return SparkSession.getActiveSession() is not None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
