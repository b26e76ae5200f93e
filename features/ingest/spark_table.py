"""A log in a table of a Spark catalog: spark://TABLE, copied here by Spark before it is read.

    ENGINE=spark mtorl data validate spark://lake.ads.exposures --dataset my-log.yaml

TABLE is called as in Spark SQL: catalog.database.table, or without what is the session's own. Which catalogs there are,
Spark's own configuration says (spark-defaults.conf, spark-submit, a SparkApplication).
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
    """Copy a table.

    Args:
        address: spark://TABLE.
        folder: Is made. On a cluster, all pods must see it: it lies in $TMPDIR.

    Returns:
        The folder, with Parquet parts.

    Raises:
        LogError: The engine is not Spark, or there is no such table, or it can't be read.
        RuntimeError: Spark can't run here.
    """
    with _table(address) as table:
        table.write.parquet(str(folder.absolute()))
    if not list(folder.glob("*.parquet")):
        raise LogError(
            f"{address}: Spark's executors wrote its copy where this process can't read it; set TMPDIR to a folder of "
            "a volume that driver and executors see"
        )
    return folder


def mark(address: str) -> str:
    """A text that changes with what a table holds, which is read for it.

    Raises:
        LogError: As `copy`.
        RuntimeError: As `copy`.
    """
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
    """Whether somebody has chosen Spark otherwise, and opened it before the log was read."""
    if "pyspark.sql" not in sys.modules:
        return False
    from pyspark.sql import SparkSession

    return SparkSession.getActiveSession() is not None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
