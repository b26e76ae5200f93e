"""Tests that a failed append to a full disk leaves nothing, and is written later."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving import messages
from serving.decision_log import Spool, SpoolUnavailable, segments
from serving.decision_log import spool as spool_module
from tests.messages import assert_says
from tests.serving.router_fixtures import full_disk
from tests.serving.shipping import MemorySink, put, record, shipping
from tests.waiting import eventually, until


def ids(spool: Spool) -> list[str]:
    return [record["decision_id"] for record in spool.read("decision")]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*-*.jsonl"))


@pytest.mark.parametrize("broken", [("write",), ("a part",), ("fdatasync",), ("fdatasync", "ftruncate")])
def test_appends_that_fail_leave_no_segments_and_no_records(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, broken: tuple[str, ...]
) -> None:
    put(spool, "decision", "before")
    write = os.write

    def write_a_part(file: int, data: Any) -> int:
        return write(file, data[:100]) if data[:1] == b"{" else full_disk(file, data)

    with monkeypatch.context() as patch:
        for call in broken:
            if call == "a part":
                patch.setattr(os, "write", write_a_part)
            else:
                patch.setattr(os, call, lambda file, *data: full_disk(file, data))
        for i in range(20):
            with pytest.raises(SpoolUnavailable, match="No space left"):
                put(spool, "decision", f"lost-{i}")
    put(spool, "decision", "after")
    assert files(spool.folder) == ["decision-00000001.jsonl"] and ids(spool) == ["before", "after"]


def test_a_decision_on_disk_is_acknowledged_even_if_outcomes_of_its_batch_fail(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(spool, "decision", "before")
    put(spool, "outcome", "e0")
    outcomes, write = spool._writers["outcome"], os.write
    spool._writing.acquire()
    reported = spool.submit("outcome", record("outcome", "e1", decision_id="new"))
    decided = spool.submit("decision", record("decision", "new"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: (full_disk if file == outcomes._file else write)(file, data))
        spool._writing.release()
        decided.result(60)
        with pytest.raises(SpoolUnavailable, match="No space left"):
            reported.result(60)
    assert spool.fault is not None
    put(spool, "outcome", "e1", decision_id="new")
    assert ids(spool) == ["before", "new"]


def test_ctrl_c_during_a_write_leaves_the_spool_usable(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(file: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            spool.write("decision", [record("decision", "new")], 60.0)
    spool.write("decision", [record("decision", "new")], 60.0)
    assert ids(spool) == ["new"]


def test_the_first_append_may_fail_and_so_may_the_next_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, segment_bytes=1)
    for name in ("first", "second"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full_disk)
            for _ in range(3):
                with pytest.raises(SpoolUnavailable):
                    put(spool, "decision", name)
        put(spool, "decision", name)
    assert files(tmp_path) == ["decision-00000001.jsonl", "decision-00000002.jsonl"]
    assert ids(spool) == ["first", "second"]
    spool.close()


def test_empty_segments_are_deleted_at_the_start_and_the_position_stays_valid(spool: Spool) -> None:
    put(spool, "decision", "shipped")
    at = spool.end("decision")
    put(spool, "decision", "pending")
    end = spool.end("decision")
    spool.close()
    segments.note_positions(spool.folder, "shipped.json", {"decision": at})
    for kind in ("decision", "outcome"):
        (spool.folder / f"{kind}-00000002.jsonl").touch()
    again = Spool(spool.folder)
    assert files(spool.folder) == ["decision-00000001.jsonl"] and again.end("decision") == end
    assert segments.positions(spool.folder, "shipped.json")["decision"] == at
    put(again, "decision", "next")
    assert ids(again) == ["shipped", "pending", "next"]
    again.close()


def test_owed_records_are_written_once_the_disk_works_even_without_traffic(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full_disk)
        for i in range(3):
            spool.submit("decision", record("decision", f"owed-{i}"), owed=True)
        eventually(lambda: spool.fault is not None)
        assert_says(spool.problems(spool.room())[0], messages.LOG_NOT_WRITTEN, error=str(spool.fault))
    eventually(lambda: ids(spool) == ["owed-0", "owed-1", "owed-2"] and spool.fault is None)
    assert spool.lost == 0


def test_owed_records_beyond_the_limit_count_as_lost_and_the_rest_is_written_on_close(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "_LATER_SECONDS", 3600)
    monkeypatch.setattr(spool_module, "_MOST_OWED", 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full_disk)
        for i in range(5):
            spool.submit("decision", record("decision", f"owed-{i}"), owed=True)
        eventually(lambda: spool.lost == 3)
    spool.close()
    assert ids(spool) == ["owed-0", "owed-1"]


def test_a_folder_with_an_incomplete_line_opens_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    put(spool, "decision", "whole")
    spool.close()
    with (tmp_path / "decision-00000001.jsonl").open("ab") as segment:
        segment.write(b'{"torn')
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: full_disk(file, b""))
        patch.setattr(os, "write", full_disk)
        again = Spool(tmp_path)
    assert ids(again) == ["whole"]
    again.close()


def test_room_is_that_of_the_disk_if_less_than_the_quotas(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    spool.max_bytes = 1000 + spool.size
    assert spool.room() == 1000 and spool.problems(1000) == []
    disk = SimpleNamespace(f_bavail=2 + spool_module.KEPT_FREE // 50, f_frsize=50)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    assert 50 < spool.room() <= 100
    assert_says(spool.problems(100)[0], messages.LOG_NEARLY_FULL, megabytes=1e-4)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small disk requires root")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.integration
async def test_a_spool_that_has_filled_its_disk_takes_records_once_they_are_uploaded(small_disk: Path) -> None:
    with closing(Spool(small_disk / "spool", segment_bytes=40_000)) as spool:
        with pytest.raises(SpoolUnavailable, match="No space left"):
            for i in range(1000):
                put(spool, "decision", f"d{i}")
        async with shipping(spool, MemorySink()) as uploader:
            await until(lambda: uploader.noted["decision"] == spool.end("decision"))
            spool.prune([uploader.noted], time.time() + 3600)
            put(spool, "decision", "after")
