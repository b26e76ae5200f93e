"""Tests of snapshots: equal contents share one, and snapshots in use are kept."""

import json
import os
import time
from pathlib import Path

import pytest

from mtorl.runtime.snapshots import generation, located, snapshot

DAY = 86_400.0


def write(tmp_path: Path, artifact: str, text: str, kind: str = "log") -> Path:
    with snapshot(str(tmp_path / artifact), str(tmp_path / "snapshots"), kind) as folder:
        (folder / "parts").mkdir(parents=True)
        (folder / "parts" / "part-0").write_text(text)
    return located(str(tmp_path / artifact))


def kept(tmp_path: Path) -> list[str]:
    return sorted((path / "parts" / "part-0").read_text() for path in (tmp_path / "snapshots").glob("[!.]*"))


def ages(folder: Path, days: float) -> None:
    os.utime(folder, (time.time() - days * DAY,) * 2)


def test_an_artifact_is_a_pointer_or_without_a_volume_the_folder(tmp_path: Path) -> None:
    with snapshot(str(tmp_path / "none"), "", "log") as folder:
        folder.mkdir()
    assert folder == located(str(tmp_path / "none")) == tmp_path / "none"
    folder = write(tmp_path, "one", "rows")
    assert folder.parent == tmp_path / "snapshots" and (folder / "parts" / "part-0").read_text() == "rows"
    (pointer,) = (tmp_path / "one").iterdir()
    told = json.loads(pointer.read_text())
    assert told["path"] == str(folder) and told["sha256"].startswith(folder.name.removeprefix("log-"))
    assert pointer.stat().st_size < 300, "the pipeline uploads and downloads only this file"


def test_equal_contents_share_a_folder(tmp_path: Path) -> None:
    first = write(tmp_path, "one", "rows")
    assert write(tmp_path, "two", "rows") == first
    assert write(tmp_path, "three", "more rows") != first and kept(tmp_path) == ["more rows", "rows"]
    assert located(str(tmp_path / "one")) == first, "a later run must not change the data of this run"


def test_a_failed_step_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError), snapshot(str(tmp_path / "one"), str(tmp_path / "snapshots"), "log") as folder:
        folder.mkdir()
        raise ValueError
    assert [path.name for path in (tmp_path / "snapshots").iterdir()] == [] and not (tmp_path / "one").exists()


def test_the_last_used_snapshots_and_those_in_use_stay(tmp_path: Path) -> None:
    for days, text in enumerate("fedcb", 2):
        ages(write(tmp_path, text, text), days)
    ages(write(tmp_path, "w", "w", "windows"), 9)
    killed = tmp_path / "snapshots" / ".log.0a1b2c3d"
    killed.mkdir()
    ages(killed, 2)
    located(str(tmp_path / "b"))  # a run reads the oldest snapshot now
    write(tmp_path, "a", "a")
    assert kept(tmp_path) == ["a", "b", "f", "w"] and not killed.exists()
    for text in "cde":
        write(tmp_path, text, text)
    assert kept(tmp_path) == ["a", "b", "c", "d", "e", "w"], "snapshots used today are kept beyond the usual number"
    before = generation(str(tmp_path / "snapshots"))
    with pytest.raises(FileNotFoundError, match=r"log-.*is missing"):
        located(str(tmp_path / "f"))
    assert generation(str(tmp_path / "snapshots")) != before, "it is part of the next run's cache key"


def test_a_new_volume_has_another_generation(tmp_path: Path) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    assert generation(first) == generation(first) != generation(second)
    assert generation("") == ""


def test_a_concurrent_removal_of_users_prevents_a_snapshot(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="forgotten while"),
        snapshot(str(tmp_path / "one"), str(tmp_path / "snapshots"), "log") as folder,
    ):
        folder.mkdir()
        (tmp_path / "forgotten.json").write_text("{}")
    assert not list((tmp_path / "snapshots").glob("[!.]*"))
