"""Tests that the spool loses no acknowledged record."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.decision_log import Spool, SpoolError, SpoolUnavailable, segments
from serving.decision_log.shipper import Refused
from tests.serving.shipping import MemorySink, names, poison, put, put_in_turn, record, ship_all
from tests.waiting import eventually


def test_threads_share_a_sync_and_one_that_times_out_withdraws_its_record(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[int] = []
    sync, gate = os.fdatasync, threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda file: (syncs.append(file), gate.wait(60), sync(file))[2])
    with ThreadPoolExecutor(12) as pool:
        first = pool.submit(spool.write, "decision", [record("decision", "first")], 60.0)
        eventually(lambda: syncs)
        rest = [pool.submit(spool.write, "decision", [record("decision", f"d{i}")], 60.0) for i in range(10)]
        with pytest.raises(TimeoutError):
            spool.write("decision", [record("decision", "hasty")], 0.05)
        eventually(lambda: len(spool._waiting) == 11)
        gate.set()
        for future in [first, *rest]:
            future.result(60)
    assert len(syncs) == 2
    assert {record["decision_id"] for record in spool.read("decision")} == {"first", *(f"d{i}" for i in range(10))}


def test_records_that_may_wait_share_syncs_and_survive_a_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs: list[int] = []
    sync = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda file: (syncs.append(file), sync(file))[1])
    spool = Spool(tmp_path)
    for i in range(600):
        spool.submit_later("window", record("window", f"w{i}"))
    spool.close()
    assert [found["decision_id"] for found in spool.read("window")] == [f"w{i}" for i in range(600)]
    # The 600 records need two syncs, because each writes at most 512. A sync more per second may follow.
    assert len(syncs) <= 4


def test_concurrent_writes_lose_and_repeat_no_record(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=5_000)
    written: list[str] = []

    def some(number: int) -> None:
        for i in range(40):
            name = f"{number}-{i}"
            try:
                if i % 3:
                    spool.write("decision", [record("decision", name)], 60.0)
                else:
                    spool.submit("decision", record("decision", name)).result(60)
                spool.write("outcome", [record("outcome", name, decision_id=name)], 60.0)
            except SpoolUnavailable:  # the spool was closed meanwhile
                return
            written.append(name)

    some(0)
    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(some, number) for number in range(1, 7)]
        eventually(lambda: len(written) >= 150)
        spool.close()
    with pytest.raises(SpoolUnavailable, match="closed"):
        spool.write("decision", [record("decision", "late")], 1.0)
    for ended in running:
        ended.result()
    again = Spool(tmp_path)
    kept = [record["decision_id"] for record in again.read("decision")]
    again.close()
    assert set(kept) >= set(written) and len(kept) == len(set(kept))


@pytest.mark.parametrize(
    "tail", [b'{"schema_version": 1, "decision_', b"\x00" * 4096, b'{"a": 1}', b"[1]\n", b"\xff\xfe\n"]
)
def test_remains_of_a_crash_are_skipped_and_hide_no_record(tmp_path: Path, tail: bytes) -> None:
    spool = Spool(tmp_path)
    put(spool, "decision", "whole")
    spool.close()
    segment = tmp_path / "decision-00000001.jsonl"
    with segment.open("ab") as file:
        file.write(tail)
    spool = Spool(tmp_path)
    put(spool, "decision", "next")
    assert [record["decision_id"] for record in spool.read("decision")] == ["whole", "next"]
    sink = MemorySink()
    sink.fault = lambda batch: None if all(map(segments.record, batch.lines)) else refuse()
    ship_all(spool, sink)
    assert sink.got["decision"] == ["whole", "next"]
    whole = tail.endswith(b"\n")
    assert [entry["reason"] for entry in poison(tmp_path, "decision")] == ["no record"] * whole
    assert (tail in segment.read_bytes()) == whole, "the next append cuts off an incomplete line"
    spool.close()


def refuse() -> None:
    raise Refused("no record")


def test_a_segment_ends_when_it_is_large_or_old_and_a_start_reads_only_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments end after an hour, so that old ones can be deleted."""
    spool = Spool(tmp_path, segment_bytes=4400)
    put_in_turn(spool, "decision", *names("d", 9))
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 3700)
    put_in_turn(spool, "decision", "d9")
    spool.close()
    first, *others = segments.segments(tmp_path, "decision")
    assert [path.name for path in others] == [f"decision-0000000{n}.jsonl" for n in (2, 3, 4)]
    assert [record["decision_id"] for record in spool.read("decision")] == names("d", 10)
    first.write_bytes(b"not read\n")
    Spool(tmp_path).close()
    assert first.read_bytes() == b"not read\n"


def test_a_folder_has_one_writer(spool: Spool, tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="another process"):
        Spool(spool.folder)
    spool.close()
    Spool(spool.folder).close()
    with pytest.raises(SpoolUnavailable, match="closed"):
        put(spool, "decision", "late")
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match="file"):
        Spool(tmp_path / "file")


def test_the_newest_records_come_from_the_newest_files(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        lines = b"".join(b'{"n": %d}\n' % (10 * number + i) for i in range(4))
        (tmp_path / f"decision-{number:08d}.jsonl").write_bytes(lines + b'{"half')
    (tmp_path / "decision-00000001.jsonl").write_bytes(b"not read\n")
    for count in (1, 4, 6):
        found = [record["n"] for record in segments.newest(tmp_path, "decision", count)]
        assert found == [20, 21, 22, 23, 30, 31, 32, 33][-count:]
    assert list(segments.newest(tmp_path / "none", "decision", 5)) == []
