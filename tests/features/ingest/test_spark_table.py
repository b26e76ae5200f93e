"""Tables of a Spark catalog are logs: the same rows as from a file, with Spark; without it, one error that says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from features.data_folder import canonical_log
from features.engine import open_engine
from features.ingest.draft import draft_description
from features.ingest.ingest import ingest_log, validate_log
from features.ingest.log_folder import RawLog, content_of
from mtorl.log.touchpoints import LogError
from tests.features.ingest.test_conversions import DESCRIPTION, Shop, log, orders
from tests.features.shop_log import SPEC, rows

pytestmark = pytest.mark.long


LOG, ORDERS = "spark://spark_catalog.shop.exposures", "spark://shop.orders"


@pytest.fixture(scope="module")
def session() -> Iterator[Any]:
    """Spark with a catalog of its own, in memory."""
    with open_engine("spark"):
        from pyspark.sql import SparkSession

        session = SparkSession.active()
        session.sql("CREATE DATABASE shop")
        session.createDataFrame(rows()).write.saveAsTable("shop.exposures")
        yield session


def test_without_spark_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENGINE", raising=False)
    monkeypatch.setattr("features.ingest.object_store._spark_is_open", lambda: False)
    for read in (lambda: validate_log(LOG, SPEC), lambda: draft_description(LOG)):
        with pytest.raises(LogError, match=r"^spark://.*exposures: a table .* is read by Spark: set ENGINE=spark, or"):
            read()


def test_a_table_is_a_log(session: Any, tmp_path: Path) -> None:
    rows().to_parquet(tmp_path / "log.parquet", index=False)
    wanted = ingest_log(tmp_path / "log.parquet", SPEC, tmp_path / "a.parquet", tmp_path / "faulty.csv")
    assert ingest_log(LOG, SPEC, tmp_path / "b.parquet", tmp_path / "faulty.csv") == wanted
    assert pd.read_parquet(tmp_path / "a.parquet").equals(pd.read_parquet(tmp_path / "b.parquet"))
    SPEC.save(tmp_path / "mine.yaml")
    raw = RawLog(LOG, str(tmp_path / "mine.yaml"))
    with pytest.raises(LogError, match="give --dataset, not --trusted"):
        canonical_log(raw, tmp_path / "data", tmp_path / "faulty.csv", trusted=True)
    assert draft_description(LOG, named={"channel": "channel"}).spec.name == "exposures"

    before = content_of(raw)
    assert content_of(raw) == before, "of the same rows"
    session.createDataFrame(rows()[:1]).write.mode("append").saveAsTable("shop.exposures")
    assert content_of(raw) != before


def test_conversions_may_be_a_table(session: Any, tmp_path: Path) -> None:
    shown, told = log(("a", 0), ("b", 60)), orders(("o1", "i0", "2024-01-05 13:00:00", 1250))
    wanted, _ = Shop(tmp_path, shown, told, DESCRIPTION).ingest()
    assert wanted["conversion"].sum() == 1
    session.createDataFrame(told).write.saveAsTable("shop.orders")
    told_of = {**DESCRIPTION, "conversions": {**DESCRIPTION["conversions"], "source": ORDERS}}
    found, _ = Shop(tmp_path, shown, told, told_of).ingest()
    assert found.equals(wanted)


def test_what_is_not_there_is_named(session: Any) -> None:
    for address in ("spark://shop.nothing", "spark://nowhere.shop.exposures", "spark://", "spark://a b"):
        with pytest.raises(LogError, match=f"^{address}: no such table, or no such catalog: ") as said:
            validate_log(address, SPEC)
        assert "\n" not in str(said.value)
    session.sql("SELECT 1 AS x").write.saveAsTable("shop.other")
    with pytest.raises(LogError, match=r"^spark://shop\.other: not a 'shop' log"):
        validate_log("spark://shop.other", SPEC)
