"""The Parquet sink: each record in one row of the right hour, however often it is delivered."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from serving.decision_log import Spool, position
from serving.decision_log.export import export_parquet
from serving.decision_log.parquet_sink import ParquetSink
from serving.decision_log.position import OLDEST, Position
from serving.decision_log.sink import SinkUnavailable
from tests.serving.shipping import names, poison, put, ship_all

START = datetime(2026, 3, 1, 22, 30, tzinfo=UTC)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "log's"


def fill(spool: Spool, number: int) -> list[str]:
    for i in range(number):
        at = (START + timedelta(minutes=10 * i)).isoformat()
        put(spool, "decision", f"d{i}", event_time=at)
        put(spool, "outcome", f"e{i}", event_time=at)
    return names("d", number)


def ship(spool: Spool, out: Path, largest: int = 20_000) -> None:
    sink = ParquetSink(out, spool.identity)
    sink.largest, sink.linger = largest, 0.0
    ship_all(spool, sink)


def rows(out: Path, kind: str = "decision", column: str = "decision_id") -> list[Any]:
    query = f"SELECT {column} FROM read_parquet(?, hive_partitioning = true) ORDER BY event_time"
    return [row[0] for row in duckdb.execute(query, [f"{out}/{kind}s/*/*/*.parquet"]).fetchall()]


def columns(path: Path) -> list[tuple[str, Any]]:
    return [(field.name, field.type) for field in pq.ParquetFile(path).schema_arrow]


def test_hourly_files_that_duckdb_reads(spool: Spool, out: Path) -> None:
    expected = fill(spool, 30)
    ship(spool, out, largest=7)
    assert rows(out) == expected and rows(out, "outcome", "event_id") == names("e", 30)
    assert sorted({str(p.parent.relative_to(out)) for p in out.glob("outcomes/*/*/*.parquet")}) == [
        "outcomes/date=2026-03-01/hour=22",
        "outcomes/date=2026-03-01/hour=23",
        *(f"outcomes/date=2026-03-02/hour={hour:02d}" for hour in range(4)),
    ]
    ours = [path for path in out.rglob("*") if path.is_file()]
    assert all(path.suffix == ".parquet" and path.name.startswith(f"part-{spool.identity}-0000000") for path in ours)
    query = "SELECT count(*) FROM read_parquet(?, hive_partitioning = true) WHERE date = '2026-03-02' AND hour = 1"
    assert duckdb.execute(query, [f"{out}/decisions/*/*/*.parquet"]).fetchall() == [(6,)]


def test_types_and_values_are_those_of_the_export(spool: Spool, out: Path, tmp_path: Path) -> None:
    fill(spool, 3)
    ship(spool, out)
    put(spool, "decision", "later")  # not shipped
    assert export_parquet(out, tmp_path / "of the sink") == {"decision": 3, "outcome": 3, "shadow": 0}
    assert export_parquet(spool.folder, tmp_path / "of the spool") == {"decision": 4, "outcome": 3, "shadow": 0}
    for kind in ("decisions", "outcomes"):
        ours, theirs = (tmp_path / f"of the {where}" / f"{kind}.parquet" for where in ("sink", "spool"))
        assert columns(ours) == columns(theirs)
        (part, *_) = out.glob(f"{kind}/*/*/*.parquet")
        assert columns(part) == columns(theirs)
        found = [row for row in pq.read_table(theirs).to_pylist() if row["decision_id"] != "later"]
        assert pq.read_table(ours).to_pylist() == found


@pytest.mark.parametrize(("first", "second"), [(4, 9), (9, 4), (9, 100), (100, 9)])
def test_a_delivery_from_the_start_in_other_batches_leaves_no_duplicate(
    spool: Spool, out: Path, first: int, second: int
) -> None:
    expected = fill(spool, 25)
    ship(spool, out, first)
    (spool.folder / position.FILE).unlink()
    ship(spool, out, second)
    assert rows(out) == expected and rows(out, "outcome", "event_id") == names("e", 25)


def test_a_delivery_that_was_not_noted_and_grew_leaves_no_duplicate(spool: Spool, out: Path) -> None:
    """The process ended between the delivery and the note; meanwhile more was logged."""
    fill(spool, 10)
    ship(spool, out)
    noted = (spool.folder / position.FILE).read_bytes()
    more = [(START + timedelta(hours=3, minutes=i)).isoformat() for i in range(9)]
    for turn in range(3):
        for i in range(3 * turn, 3 * turn + 3):
            put(spool, "decision", f"more{i}", event_time=more[i])
        (spool.folder / position.FILE).write_bytes(noted)
        ship(spool, out)
        assert rows(out) == [*names("d", 10), *names("more", 3 * turn + 3)]


def test_what_was_deleted_from_the_spool_stays(spool: Spool, out: Path) -> None:
    """The position is damaged after retention: what is left is delivered again, what is gone is not taken back."""
    expected = fill(spool, 30)
    ship(spool, out)
    last = position.load(spool.folder)["decision"].segment
    spool.prune({"decision": Position(last, 0)}, datetime.now(UTC).timestamp() + 60, list)
    (spool.folder / position.FILE).write_bytes(b"x")
    ship(spool, out, 3)
    assert rows(out) == expected


def test_another_spool_takes_nothing_back(spool: Spool, out: Path, tmp_path: Path) -> None:
    """The old one was deleted, and its segments' numbers begin anew."""
    put(spool, "decision", *names("old", 3))
    ship(spool, out)
    other = Spool(tmp_path / "other")
    put(other, "decision", *names("new", 3))
    ship(other, out)
    other.close()
    again = Spool(tmp_path / "other")
    assert again.identity == other.identity != spool.identity
    again.close()
    assert sorted(rows(out)) == [*names("new", 3), *names("old", 3)]


def test_a_withdrawn_decision(spool: Spool, out: Path, tmp_path: Path) -> None:
    put(spool, "decision", "d")
    put(spool, "decision", "d", expose=False, withdrawn=True)
    ship(spool, out)
    assert rows(out, column="expose") == [False]  # in one batch
    put(spool, "decision", "later")
    ship(spool, out)
    put(spool, "decision", "later", expose=False, withdrawn=True)
    ship(spool, out)
    assert export_parquet(out, tmp_path)["decision"] == 2
    assert duckdb.sql(f"SELECT count(*) FROM '{tmp_path}/decisions.parquet' WHERE expose").fetchall() == [(0,)]


def test_a_record_of_another_type_is_set_aside(spool: Spool, out: Path) -> None:
    put(spool, "outcome", *names("e", 10))
    put(spool, "outcome", "bad", schema_version=9, value="much")
    put(spool, "outcome", *names("f", 10))
    ship(spool, out)
    assert sorted(rows(out, "outcome", "event_id")) == sorted([*names("e", 10), *names("f", 10)])
    (entry,) = poison(spool.folder, "outcome")
    assert json.loads(entry["record"])["event_id"] == "bad"


def test_a_full_disk_is_no_fault_of_the_records(spool: Spool, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(spool, "decision", *names("d", 4))
    batch = position.read(spool.folder, "decision", OLDEST, spool.end("decision"), 100)
    assert batch is not None
    sink = ParquetSink(out, spool.identity)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        with pytest.raises(SinkUnavailable, match="No space"):
            asyncio.run(sink.deliver(batch))
    asyncio.run(sink.deliver(batch))
    assert sorted(rows(out)) == names("d", 4)
