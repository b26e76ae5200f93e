"""Tests that the spool deletes only old, shipped records, and stays within its quota."""

import asyncio
import errno
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from serving.decision_log import Kind, Spool, SpoolUnavailable, segments
from serving.decision_log.segments import OLDEST, Position
from serving.decision_log.shipper import Shipper, SinkUnavailable
from tests.serving.shipping import SHIPPED, MemorySink, names, put, put_in_turn, ship_all, shipping, unreachable
from tests.waiting import until

HOUR = 3600.0


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", segment_bytes=4400)
    yield spool
    spool.close()


def numbers(spool: Spool, kind: Kind) -> list[int]:
    return [int(path.stem.split("-")[1]) for path in segments.segments(spool.folder, kind)]


def ship(spool: Spool, keep_hours: float) -> None:
    ship_all(spool, MemorySink(), prune_before=time.time() - keep_hours * HOUR)


def age(spool: Spool, hours: float) -> None:
    for path in spool.folder.iterdir():
        os.utime(path, (time.time() - hours * HOUR,) * 2)


def test_shipped_and_old_segments_are_deleted_except_the_newest(spool: Spool) -> None:
    put_in_turn(spool, "decision", *names("decision", 10))
    put_in_turn(spool, "outcome", *names("outcome", 80))
    assert len(numbers(spool, "decision")) > 2 and len(numbers(spool, "outcome")) > 2
    newest = numbers(spool, "decision")[-1]
    ship(spool, keep_hours=168)
    assert numbers(spool, "decision") == list(range(1, newest + 1))  # shipped, but young
    age(spool, 169)
    put(spool, "decision", "young")
    ship(spool, keep_hours=168)
    assert numbers(spool, "decision") == [numbers(spool, "decision")[-1]] and len(numbers(spool, "outcome")) == 1
    assert abs(spool.size - sum(path.stat().st_size for path in spool.folder.iterdir())) < 300  # except shipped.json
    before = numbers(spool, "decision")[-1]
    put_in_turn(spool, "decision", *names("younger", 4))
    assert numbers(spool, "decision")[-1] > before  # a number is never reused


def test_pending_records_stay_at_any_age(spool: Spool) -> None:
    put_in_turn(spool, "decision", *names("decision", 12))
    age(spool, 10_000)
    everything = numbers(spool, "decision")
    for at in (OLDEST, Position(1, 0), Position(1, 10**9)):
        spool.prune([{"decision": at}], time.time())
        assert numbers(spool, "decision") == everything
    spool.prune([{"decision": Position(3, 0), "outcome": OLDEST}], time.time())
    assert numbers(spool, "decision") == everything[2:]


async def test_a_failed_note_of_the_position_stops_nothing_and_only_noted_positions_count_as_shipped(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shipping continues at the stored position, so all later records must stay."""
    put_in_turn(spool, "decision", *names("decision", 12))
    age(spool, 10_000)
    everything = numbers(spool, "decision")
    sink, save, noted = MemorySink(), segments.note_positions, 2

    def full(folder: Path, file: str, positions: Any) -> None:
        if positions["decision"].segment > noted:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(folder, file, positions)

    monkeypatch.setattr(segments, "note_positions", full)
    async with shipping(spool, sink) as running:
        await until(lambda: running.tally["failed", "disk"] >= 2)
        spool.prune([running.noted], time.time())
        assert numbers(spool, "decision") == everything[1:]
        noted = 100
        await until(lambda: segments.positions(spool.folder, SHIPPED)["decision"] == spool.end("decision"))
    assert sink.got["decision"] == names("decision", 12)


def test_records_beyond_the_quota_are_refused_and_none_is_lost(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=4400, max_bytes=15_000)
    taken = []
    with pytest.raises(SpoolUnavailable, match="15000 bytes"):
        for i in range(100):
            put(spool, "decision", f"d{i}")
            taken.append(f"d{i}")
    assert 4 < len(taken) < 15 and spool.size <= 15_000
    while spool.size + 400 < 15_000:
        put(spool, "outcome", f"e{spool.size}")
    with pytest.raises(SpoolUnavailable):
        for i in range(10):
            put(spool, "outcome", f"f{i}")
    age(spool, 1)
    ship(spool, keep_hours=0)
    put(spool, "decision", "again")
    assert [record["decision_id"] for record in spool.read("decision")][-1] == "again"
    spool.close()
    # A spool above its quota can be opened but accepts no record.
    spool = Spool(tmp_path, max_bytes=10)
    with pytest.raises(SpoolUnavailable):
        put(spool, "decision", "no")
    spool.close()


async def test_a_sink_that_is_down_loses_its_oldest_records_and_blocks_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The spool may delete records that only the sink lacks, because the lake has them."""
    spool = Spool(tmp_path, segment_bytes=4400, max_bytes=60_000)
    lake = Shipper(spool, MemorySink(), segments.UPLOADED)
    sink, total = MemorySink(), 120
    sink.fault = unreachable
    behind = Shipper(spool, sink, SHIPPED, lake)

    async def second() -> None:
        await lake.ship_once()
        with suppress(SinkUnavailable):
            await behind.ship_once()
        spool.prune([lake.noted, behind.noted], time.time() + HOUR)

    for i in range(total):
        put(spool, "decision", f"decision{i}")
        put(spool, "outcome", f"outcome{i}")
        await second()
        assert spool.size < 40_000, "half of the quota, and the current segments"
    assert behind.tally["dropped", "decision"] > total / 2
    sink.fault = lambda batch: None
    while behind.pending:
        await second()
    for kind in ("decision", "outcome"):
        got = sink.got[kind]
        assert got and got == names(kind, total)[-len(got) :]
        assert behind.tally["dropped", kind] == total - len(got)
        assert behind.tally["shipped", kind] == len(got)
    assert sum("mtorl_dropped_records_total" in message for message in caplog.messages) == 1
    await asyncio.gather(lake.close(1.0), behind.close(1.0))
    spool.close()


async def test_records_that_the_lake_lacks_are_dropped_for_no_sink(tmp_path: Path) -> None:
    """With lake and sink down, the spool fills up, because the lake still needs all records."""
    spool = Spool(tmp_path, segment_bytes=4400, max_bytes=30_000)
    to_lake, sink = MemorySink(), MemorySink()
    to_lake.fault = sink.fault = unreachable
    lake = Shipper(spool, to_lake, segments.UPLOADED)
    behind = Shipper(spool, sink, SHIPPED, lake)
    taken = 0
    with pytest.raises(SpoolUnavailable):
        for taken in range(100):
            put(spool, "decision", f"d{taken}")
            for one in (lake, behind):
                with suppress(SinkUnavailable):
                    await one.ship_once()
    sink.fault = lambda batch: None
    while await behind.ship_once():
        pass
    assert sink.got["decision"] == names("d", taken) and not behind.tally["dropped", "decision"]
    await asyncio.gather(lake.close(1.0), behind.close(1.0))
    spool.close()
