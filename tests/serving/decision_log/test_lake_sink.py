"""Tests that each uploaded record is in the lake once, in the hour of its decision."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mtorl.log.lake import PLACED, Lake, lake_database
from mtorl.log.records import ID_FIELD, Kind, sql_columns
from serving.decision_log import Spool, segments
from serving.decision_log.lake_sink import LakeSink
from serving.decision_log.segments import OLDEST
from serving.decision_log.shipper import SinkUnavailable
from tests.lakes import id_of
from tests.serving.shipping import RECORDS, SHIPPED, names, poison, put, ship_all

START = datetime(2026, 3, 1, 22, 30, tzinfo=UTC)
DECISION = RECORDS["decision"]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.open(tmp_path / "lake's")


def ids(number: int, first: int = 0) -> list[str]:
    return [id_of(f"d{i}", START + timedelta(minutes=10 * i)) for i in range(first, first + number)]


def fill(spool: Spool, number: int, first: int = 0) -> list[str]:
    made = ids(number, first)
    for i, name in enumerate(made, first):
        put(spool, "decision", name)
        put(spool, "outcome", f"e{i}", decision_id=name)
    return made


def upload(spool: Spool, lake: Lake, largest: int = 20_000) -> None:
    sink = LakeSink(lake, spool.identity)
    sink.largest, sink.linger = largest, 0.0
    ship_all(spool, sink)


def found(lake: Lake, kind: Kind = "decision", column: str = "", **period: datetime) -> list[Any]:
    with lake_database(lake) as db:
        query = f"SELECT {column or ID_FIELD[kind]} FROM {lake.records(db, kind, **period)} ORDER BY decision_id"
        return [value for (value,) in db.execute(query).fetchall()]


def test_records_lie_in_the_hour_of_their_decision(spool: Spool, lake: Lake) -> None:
    expected = fill(spool, 30)
    upload(spool, lake, largest=7)
    assert found(lake) == expected and found(lake, "outcome") == names("e", 30)
    assert {file.hour.hour for file in lake.arrived("outcome")} <= {22, 23, 0, 1, 2, 3}
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    assert found(lake, since=midnight, until=midnight + timedelta(hours=1)) == expected[9:15]
    assert found(lake, column="DISTINCT bucket") == [int(expected[0][15:17], 16)]


def test_types_and_values(spool: Spool, lake: Lake) -> None:
    nothing = dict.fromkeys(("request_id", "model_name", "feature_hash", "static", "baseline", "price"))
    later, first = ids(2)[::-1]
    put(spool, "decision", later, **nothing)
    put(spool, "decision", first)
    upload(spool, lake)
    assert lake.folder is not None
    ((file,),) = [[lake.folder / file.name for file in lake.arrived("decision")]]
    types = {field.name: str(field.type) for field in pq.ParquetFile(file).schema_arrow}
    assert list(types) == [*sql_columns("decision"), *PLACED]
    text = {"context", "candidates", "channel_probs", "request_id", "model_name", "fallback_reason", "reservation_id"}
    assert {types[name] for name in text} == {"string"}
    assert types["expose"] == types["features_found"] == "bool" and types["price"] == "double"
    assert types["event_time"] == "timestamp[us, tz=UTC]"
    row = pq.ParquetFile(file).read().to_pylist()[0]
    figures = ("channel_probs", "exposure_probs", "expected_rewards", "expected_costs", "shares", "prices")
    for name in ("context", "candidates", "static", "costs", "baseline", "exploration", *figures):
        assert json.loads(row.pop(name)) == DECISION[name]
    for name in ("event_time", "request_time", "last_time"):
        assert row.pop(name) == datetime.fromisoformat(DECISION[name])
    assert row.pop("hour") == START.replace(minute=0) and row.pop("bucket") == int(first[15:17], 16)
    assert row == {name: {**DECISION, "decision_id": first}[name] for name in row}


@pytest.mark.parametrize(("first", "second"), [(4, 9), (9, 4), (9, 100), (100, 9)])
def test_a_second_delivery_in_other_batches_adds_nothing(spool: Spool, lake: Lake, first: int, second: int) -> None:
    expected = fill(spool, 25)
    upload(spool, lake, first)
    (spool.folder / SHIPPED).unlink()
    upload(spool, lake, second)
    assert found(lake) == expected and found(lake, "outcome") == names("e", 25)


def test_a_batch_that_is_delivered_again_replaces_its_file(spool: Spool, lake: Lake) -> None:
    fill(spool, 10)
    upload(spool, lake)
    files = lake.arrived("decision")
    noted = (spool.folder / SHIPPED).read_bytes()
    (spool.folder / SHIPPED).unlink()
    upload(spool, lake)
    assert lake.arrived("decision") == files
    # The process died after the upload, before it stored the new position.
    fill(spool, 3, first=10)
    (spool.folder / SHIPPED).write_bytes(noted)
    upload(spool, lake)
    assert found(lake) == ids(13)


@pytest.mark.parametrize("withdrawal_first", [False, True])
@pytest.mark.parametrize("batches", [1, 2])
def test_a_withdrawal_replaces_its_decision(spool: Spool, lake: Lake, batches: int, withdrawal_first: bool) -> None:
    (name,) = ids(1)
    records: list[dict[str, Any]] = [{}, {"expose": False, "withdrawn": True}]
    for changes in reversed(records) if withdrawal_first else records:
        put(spool, "decision", name, **changes)
        if batches == 2:
            upload(spool, lake)
    upload(spool, lake)
    assert found(lake, column="expose") == [False]


def test_a_faulty_record_is_set_aside(spool: Spool, lake: Lake) -> None:
    decisions = ids(20)
    for name in decisions:
        put(spool, "outcome", f"of {name}", decision_id=name)
    put(spool, "outcome", "bad version", decision_id=decisions[0], schema_version=9)
    put(spool, "outcome", "bad id", decision_id="unheard-of")
    upload(spool, lake)
    assert len(found(lake, "outcome")) == 20
    aside = [json.loads(entry["record"])["event_id"] for entry in poison(spool.folder, "outcome")]
    assert aside == ["bad version", "bad id"]


def test_a_fault_of_the_lake_sets_no_record_aside(spool: Spool, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    put(spool, "decision", *ids(4))
    batch = segments.read_batch(spool.folder, "decision", OLDEST, spool.end("decision"), 100)
    assert batch is not None
    sink = LakeSink(lake, spool.identity)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "put", full)
        with pytest.raises(SinkUnavailable, match="No space"):
            asyncio.run(sink.deliver(batch))
    asyncio.run(sink.deliver(batch))
    assert found(lake) == ids(4)
