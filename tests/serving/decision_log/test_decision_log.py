"""The decision log: frozen schema, nothing acknowledged is ever lost, nothing counts twice, nothing torn is fatal."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from mtorl.log.records import sql_columns
from serving.decision_log import Kind, Spool, SpoolError, SpoolUnavailable, export, segments
from serving.decision_log.export import KEPT_SECONDS, export_parquet, export_segments
from tests.repository import ROOT
from tests.serving.shipping import GOLDEN, RECORDS, names, put, put_in_turn, record

DECISION = RECORDS["decision"]


def test_statuses(spool: Spool) -> None:
    assert put(spool, "decision", "d1") == ["accepted"]
    assert put(spool, "outcome", "e1", decision_id="d1") == ["accepted"]
    assert put(spool, "outcome", "e1", decision_id="d1", value=2.0) == ["duplicate"]
    assert put(spool, "outcome", "e2", decision_id="unheard-of") == ["dangling"]
    assert put(spool, "outcome", "e3", decision_id="d1", event_time="2026-01-09T12:00:00+00:00") == ["late"]
    assert [record["event_id"] for record in spool.read("outcome")] == ["e1", "e2", "e3"]


def test_what_was_seen_is_known_after_a_restart(tmp_path: Path) -> None:
    for turn in range(3):
        spool = Spool(tmp_path)
        assert spool.torn == 0
        put(spool, "decision", f"d{turn}")
        assert put(spool, "outcome", "e1", decision_id="d0") == ["duplicate" if turn else "accepted"]
        assert put(spool, "outcome", f"dangling-{turn}", decision_id="unheard-of") == ["dangling"]
        spool.close()
    assert len(list(tmp_path.glob("decision-*.jsonl"))) == 1


def test_an_event_that_arrives_twice_at_once_counts_once(spool: Spool) -> None:
    assert sorted(put(spool, "outcome", *["e1"] * 50, decision_id="d1")) == ["dangling"] + ["duplicate"] * 49
    assert len(list(spool.read("outcome"))) == 1


def test_a_full_disk_is_an_error_and_leaves_no_trace(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    put(spool, "decision", "before")
    write = os.write

    def full(file: int, data: Any) -> int:
        if len(data) > 100:
            return write(file, data[:100])  # the disk takes a part, then no more
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", lambda file, data: full(file, data[:150]))
    with pytest.raises(SpoolUnavailable, match="No space"):
        put(spool, "decision", "lost")
    with pytest.raises(SpoolUnavailable):
        put(spool, "outcome", "e1", decision_id="before")
    monkeypatch.setattr(os, "write", write)
    assert put(spool, "outcome", "e1", decision_id="before") == ["accepted"]  # not taken for a duplicate
    assert put(spool, "outcome", "e2", decision_id="lost") == ["dangling"]
    put(spool, "decision", "after")
    assert [record["decision_id"] for record in spool.read("decision")] == ["before", "after"]


def test_threads_that_write_share_a_sync_and_one_that_waits_too_long_takes_its_record_back(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[int] = []
    sync, gate = os.fdatasync, threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda file: (syncs.append(file), gate.wait(60), sync(file))[2])
    with ThreadPoolExecutor(12) as pool:
        first = pool.submit(spool.write, "decision", [record("decision", "first")], 60.0)
        while not syncs:
            time.sleep(0.001)
        rest = [pool.submit(spool.write, "decision", [record("decision", f"d{i}")], 60.0) for i in range(10)]
        with pytest.raises(TimeoutError, match="the disk took longer"):
            spool.write("decision", [record("decision", "hasty")], 0.05)
        while len(spool._waiting) < 11:
            time.sleep(0.001)
        gate.set()
        assert all(future.result(60) == ["accepted"] for future in [first, *rest])
    assert len(syncs) == 2
    assert {record["decision_id"] for record in spool.read("decision")} == {"first", *(f"d{i}" for i in range(10))}


def test_whoever_writes_nothing_is_lost_or_counted_twice(tmp_path: Path) -> None:
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
                assert spool.write("outcome", [record("outcome", name, decision_id=name)], 60.0) == ["accepted"]
            except SpoolUnavailable:  # it is closed in the midst of them
                return
            written.append(name)

    some(0)
    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(some, number) for number in range(1, 7)]
        while len(written) < 150:
            time.sleep(0.001)
        spool.close()
    with pytest.raises(SpoolUnavailable, match="closed"):
        spool.write("decision", [record("decision", "late")], 1.0)
    for ended in running:
        ended.result()
    again = Spool(tmp_path)
    kept = [record["decision_id"] for record in again.read("decision")]
    again.close()
    assert set(kept) >= set(written) and len(kept) == len(set(kept)) and not again.torn


def test_a_record_that_waits_can_be_taken_back(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, gate = os.fdatasync, threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda file: (gate.wait(60), sync(file))[1])

    async def hasty(name: str) -> None:
        await asyncio.wait_for(spool.append_all("decision", [record("decision", name)]), 0.05)

    being_written = spool.submit("decision", record("decision", "being-written"))
    while not being_written.running():
        time.sleep(0.001)
    with pytest.raises(TimeoutError):
        asyncio.run(hasty("waiting"))
    gate.set()
    put(spool, "decision", "next")
    assert [record["decision_id"] for record in spool.read("decision")] == ["being-written", "next"]


@pytest.mark.parametrize(
    "tail", [b'{"schema_version": 1, "decision_', b"\x00" * 4096, b'{"a": 1}', b"[1]\n", b"\xff\xfe\n"]
)
def test_what_a_crash_tore_is_set_aside(tmp_path: Path, tail: bytes) -> None:
    spool = Spool(tmp_path)
    put(spool, "decision", "whole")
    spool.close()
    segment = tmp_path / "decision-00000001.jsonl"
    with segment.open("ab") as file:
        file.write(tail)
    spool = Spool(tmp_path)
    assert spool.torn == 1
    put(spool, "decision", "next")
    assert [record["decision_id"] for record in spool.read("decision")] == ["whole", "next"]
    assert segment.with_suffix(".torn").read_bytes().strip(b"\n") == tail.strip(b"\n")
    spool.close()


def test_large_segments_are_followed_by_others(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=4400)
    put_in_turn(spool, "decision", *names("d", 9))
    spool.close()
    assert [path.name for path in sorted(tmp_path.glob("decision-*"))] == [
        f"decision-0000000{n}.jsonl" for n in (1, 2, 3)
    ]
    spool = Spool(tmp_path, segment_bytes=4400)
    assert [record["decision_id"] for record in spool.read("decision")] == [f"d{i}" for i in range(9)]
    spool.close()


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


_WRITER = """
import json, sys
from serving.decision_log import Spool
spool, record = Spool(sys.argv[1]), json.load(open(sys.argv[2]))
for i in range(10**6):
    spool.submit("decision", {**record, "decision_id": f"{sys.argv[3]}-{i}"}).result()
    print(i, flush=True)
"""


@pytest.mark.integration
def test_a_writer_killed_in_the_middle_has_lost_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    for turn in range(3):
        command = [sys.executable, "-c", _WRITER, str(tmp_path), str(GOLDEN / "decision.json"), str(turn)]
        writer = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert writer.stdout is not None
        read = [writer.stdout.readline() for _ in range(50 + 30 * turn)]
        os.kill(writer.pid, signal.SIGKILL)
        read += writer.communicate()[0].splitlines(keepends=True)
        acknowledged = [line for line in read if line.endswith("\n")][-1]
        spool = Spool(tmp_path)
        found = [r["decision_id"] for r in spool.read("decision") if r["decision_id"].startswith(f"{turn}-")]
        assert found[: int(acknowledged) + 1] == [f"{turn}-{i}" for i in range(int(acknowledged) + 1)]
        spool.close()


def test_export_has_explicit_types(spool: Spool, tmp_path: Path) -> None:
    nothing = dict.fromkeys(("request_id", "model_name", "feature_hash", "features", "baseline", "price"))
    put(spool, "decision", "d2", **nothing, event_time="2030-01-01T00:00:00+00:00")
    put(spool, "decision", "d1")
    put(spool, "outcome", "e1", decision_id="d1")
    assert export_parquet(spool.folder, tmp_path / "out") == {"decision": 2, "outcome": 1, "shadow": 0}
    types = {field.name: str(field.type) for field in pq.read_schema(tmp_path / "out" / "decisions.parquet")}
    assert list(types) == list(sql_columns("decision"))
    text = {"context", "candidates", "channel_probs", "request_id", "model_name", "fallback_reason", "reservation_id"}
    assert {types[name] for name in text} == {"string"}
    assert types["expose"] == types["features_found"] == "bool" and types["price"] == "double"
    assert types["event_time"] == "timestamp[us, tz=UTC]"
    row = pq.read_table(tmp_path / "out" / "decisions.parquet").to_pylist()[0]
    assert json.loads(row.pop("context")) == DECISION["context"]
    figures = ("channel_probs", "exposure_probs", "expected_rewards", "expected_costs", "shares", "prices")
    for name in ("candidates", "features", "costs", "baseline", "exploration", *figures):
        assert json.loads(row.pop(name)) == DECISION[name]
    for name in ("event_time", "request_time"):
        assert row.pop(name) == datetime.fromisoformat(DECISION[name])
    assert row == {name: {**DECISION, "decision_id": "d1"}[name] for name in row}


def test_export_of_an_empty_spool_has_the_columns(spool: Spool, tmp_path: Path) -> None:
    assert export_parquet(spool.folder, tmp_path / "out") == {"decision": 0, "outcome": 0, "shadow": 0}
    assert pq.read_schema(tmp_path / "out" / "outcomes.parquet").names == list(sql_columns("outcome"))


def test_export_of_many_segments_while_the_router_writes(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", segment_bytes=4400)
    put_in_turn(spool, "decision", *names("d", 20))
    with segments.segments(spool.folder, "decision")[-1].open("ab") as file:
        file.write(b'{"schema_version": 1, "decision_id": "half')  # what a reader may see of a line
    assert export_parquet(spool.folder, tmp_path / "it's out")["decision"] == 20
    spool.close()


def test_the_newest_records_come_from_the_newest_files(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        lines = b"".join(b'{"n": %d}\n' % (10 * number + i) for i in range(4))
        (tmp_path / f"decision-{number:08d}.jsonl").write_bytes(lines + b'{"half')
    (tmp_path / "decision-00000001.jsonl").write_bytes(b"not read\n")
    for count in (1, 4, 6):
        found = [record["n"] for record in segments.newest(tmp_path, "decision", count)]
        assert found == [20, 21, 22, 23, 30, 31, 32, 33][-count:]
    assert list(segments.newest(tmp_path / "none", "decision", 5)) == []


@pytest.mark.integration
def test_a_log_that_memory_does_not_hold_is_sorted_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(export._LIMITS, "memory_limit", "280MB")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "spool").mkdir()
    lines = (json.dumps(record("decision", f"{number * 7919 % 200_000:032d}")) for number in range(200_000))
    (tmp_path / "spool" / "decision-00000001.jsonl").write_text("\n".join(lines) + "\n")
    assert export_parquet(tmp_path / "spool", tmp_path / "out")["decision"] == 200_000
    ids = pq.read_table(tmp_path / "out" / "decisions.parquet")["decision_id"].to_pylist()
    assert ids == [f"{number:032d}" for number in range(200_000)]
    assert not list((tmp_path / "here").iterdir()), "the current folder of a pod can't be written"


def exported(folder: Path) -> set[str]:
    found = duckdb.sql(f"SELECT decision_id FROM '{folder}/**/decisions.parquet'").fetchall()
    return {decision_id for (decision_id,) in found}


def test_only_segments_that_have_grown_are_exported_again(tmp_path: Path) -> None:
    spool, out = Spool(tmp_path / "spool", segment_bytes=2500), tmp_path / "out"

    def times() -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in out.rglob("decisions.parquet")}

    put_in_turn(spool, "decision", *names("d", 9))
    export_segments(spool.folder, out)
    assert exported(out) == {f"d{i}" for i in range(9)}
    before = times()
    assert len(before) == len(segments.segments(spool.folder, "decision")) > 2
    export_segments(spool.folder, out)
    assert times() == before
    put(spool, "decision", "d9")
    put(spool, "outcome", "e9", decision_id="d9")
    spool.close()
    export_segments(spool.folder, out)
    assert exported(out) == {f"d{i}" for i in range(10)}
    assert all(times()[name] == before[name] for name in sorted(before)[:-1]), "closed segments stay as they are"
    assert duckdb.sql(f"SELECT decision_id FROM '{out}/**/outcomes.parquet'").fetchall() == [("d9",)]


def test_an_export_that_was_stopped_is_made_good(spool: Spool, tmp_path: Path) -> None:
    put_in_turn(spool, "decision", *names("d", 3))
    export_segments(spool.folder, tmp_path / "out")
    (written,) = (tmp_path / "out").rglob("decisions.parquet")
    written.rename(written.with_name(".decisions.parquet.0123abcd"))
    export_segments(spool.folder, tmp_path / "out")
    assert exported(tmp_path / "out") == {"d0", "d1", "d2"}
    assert [path.name for path in written.parent.iterdir()] == ["decisions.parquet"]


def test_an_exported_file_is_durable_before_it_has_its_name(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One empty file makes the whole log unreadable, and no later export replaces it."""
    synced: list[str] = []

    def sync(path: Path) -> None:
        finished = any((tmp_path / "out").rglob("decisions.parquet"))
        synced.append(f"{'file' if path.is_file() else 'folder'}, {'after' if finished else 'before'}")

    put(spool, "decision", "d0")
    monkeypatch.setattr("mtorl.runtime.files.sync", sync)
    export_segments(spool.folder, tmp_path / "out")
    assert synced == ["file, before", "folder, after"]


def test_a_file_that_is_being_read_stays_for_minutes(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at a large log takes longer than the time between exports."""
    began, out = time.time(), tmp_path / "out"
    for i in range(4):
        put(spool, "decision", f"d{i}")
        export_segments(spool.folder, out)
        there = set(out.rglob("decisions.parquet"))
        assert len(there) == i + 1 and exported(out) == {f"d{n}" for n in range(i + 1)}
    monkeypatch.setattr(time, "time", lambda: began + KEPT_SECONDS + 60)
    export_segments(spool.folder, out)
    (left,) = out.rglob("decisions.parquet")
    assert left in there and exported(out) == {"d0", "d1", "d2", "d3"}


def test_a_spool_whose_volume_was_lost_leaves_its_export(tmp_path: Path) -> None:
    export_segments(tmp_path / "not-there-yet", tmp_path / "out")
    for name in ("lost", "new"):
        spool = Spool(tmp_path / name)
        put(spool, "decision", name)
        spool.close()
        export_segments(spool.folder, tmp_path / "out")
    assert exported(tmp_path / "out") == {"lost", "new"}


@pytest.mark.parametrize("meanwhile", [False, True])
def test_segments_that_were_shipped_and_deleted_leave_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: bool
) -> None:
    """Before an export, or after it has listed them."""
    spool, out = Spool(tmp_path / "spool", segment_bytes=2500), tmp_path / "out"
    put_in_turn(spool, "decision", *names("d", 9))
    spool.close()

    def listed(folder: Path, kind: Kind) -> list[Path]:
        found = segments.segments(folder, kind)
        if kind == "decision":
            found[0].unlink()
        return found

    if meanwhile:
        monkeypatch.setattr("serving.decision_log.export.segments", listed)
    else:
        export_segments(spool.folder, out)
        listed(spool.folder, "decision")
    export_segments(spool.folder, out)
    assert exported(out) == {record["decision_id"] for record in spool.read("decision")} < set(names("d", 9))
