"""Tests that a folder of `mtorl data build` is read like a raw log, or refused."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from features import messages
from features.data_folder import build
from features.engine import open_engine
from features.forget.folder import forget
from features.ingest import log_folder
from features.ingest.log_folder import Built, RawLog, check_unchanged, content_of
from features.sequences.builder import build_windows
from features.sequences.manifest import Manifest
from mtorl.log.opportunities import OPPORTUNITIES_FILE
from mtorl.log.touchpoints import DATASET_FILE, INGEST_FILE, LOG_FILE, LogError
from mtorl.runtime.message import Words
from mtorl.window.table import WindowTable
from tests.features.collect.decision_logs import SPEC, decision, outcome, write
from tests.features.collect.test_rules import data_folder
from tests.features.forget.test_forget import NOW
from tests.messages import assert_says, raises


@pytest.fixture
def decisions(tmp_path: Path) -> str:
    return str(write(tmp_path / "lake", [decision("d"), decision("e", 1, expose=False)], [outcome("d-cost", "d")]))


def made(out: Path, own: str, rows: int = 300, trusted: bool = False) -> Path:
    """Build a folder from `rows` touchpoints and the lake `own`. If `trusted`, the log has two files."""
    log = data_folder(out.with_name(f"log-{rows}-{len(os.listdir(out.parent))}"), rows)
    SPEC.save(out.with_name("toy.yaml"))
    if trusted:
        whole, log = pd.read_parquet(log / LOG_FILE), log / "parts"
        log.mkdir()
        for number, part in enumerate((whole[:100], whole[100:])):
            part.to_parquet(log / f"part-{number}.parquet")
    raw = RawLog(str(log), str(out.with_name("toy.yaml")))
    with open_engine("duckdb") as engine:
        build(engine, raw, out, trusted, own)
    return out


@pytest.fixture
def built(tmp_path: Path, decisions: str) -> Built:
    folder = Built.at(made(tmp_path / "built", decisions))
    assert folder is not None
    return folder


def named(built: Built, users: int = 0) -> RawLog:
    return RawLog.named(str(built.folder), str(built.folder.with_name("toy.yaml")), users=users)


def take(built: Built, out: Path, most_touchpoints: int = 0, **wanted: int) -> str:
    return built.take_log(named(built, **wanted), built.decisions() or "", most_touchpoints, out)


def test_log_and_windows_equal_those_of_a_run(built: Built, tmp_path: Path) -> None:
    said = take(built, tmp_path / "log")
    assert_says(said, messages.BUILT, folder=built.folder, rows=301, exposures=1, decisions=2)
    for name in (LOG_FILE, DATASET_FILE, INGEST_FILE, OPPORTUNITIES_FILE):
        assert (tmp_path / "log" / name).read_bytes() == (built.folder / name).read_bytes()
    assert built.take_windows(tmp_path / "log", tmp_path / "windows") == 301

    build_windows(tmp_path / "log", tmp_path / "of-its-own")
    taken, own = (Manifest.read(tmp_path / name) for name in ("windows", "of-its-own"))
    assert taken == own and taken.log_fingerprint == json.loads((built.folder / INGEST_FILE).read_text())["fingerprint"]
    assert len(WindowTable.load(tmp_path / "windows").steps) == 301, "loading verifies the files' digests"
    assert len(pd.read_parquet(tmp_path / "windows" / OPPORTUNITIES_FILE)) == 2


def test_large_files_are_not_copied_and_the_folder_may_change_afterwards(built: Built, tmp_path: Path) -> None:
    take(built, tmp_path / "log", users=301, most_touchpoints=301)  # all users, so no sample is drawn
    built.take_windows(tmp_path / "log", tmp_path / "windows")
    shard = Manifest.read(tmp_path / "windows").shards[0].file
    for one, other in ((built.folder, tmp_path / "log"), (built.folder / "windows", tmp_path / "windows")):
        for name in (LOG_FILE, shard):
            if (one / name).exists():
                assert (one / name).samefile(other / name)
        for name in ("ingest.json", "manifest.json", "dataset.yaml"):
            if (one / name).exists():
                assert not (one / name).samefile(other / name), "files that are written in place must be copies"
    before = (tmp_path / "log" / LOG_FILE).read_bytes()
    assert not forget(built.folder, frozenset({"old3"}), NOW).failed
    assert (tmp_path / "log" / LOG_FILE).read_bytes() == before


def test_on_another_file_system_files_are_copied(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    take(built, tmp_path / "log")
    built.take_windows(tmp_path / "log", tmp_path / "windows")
    assert len(WindowTable.load(tmp_path / "windows").steps) == 301


def test_the_content_digest_reads_small_files_and_changes_with_a_build(built: Built, decisions: str) -> None:
    before = content_of(named(built))
    for file in (built.folder / LOG_FILE, *(built.folder / "windows" / "steps").iterdir()):
        file.write_bytes(b"")
    assert content_of(named(built)) == before, "large files must not be read"
    made(built.folder, decisions)
    assert content_of(named(built)) == before, "a rebuild from the same log"
    made(built.folder, decisions, rows=301)
    assert content_of(named(built)) != before
    with raises(LogError, messages.CHANGED):
        check_unchanged(named(built), before)


def test_a_folder_without_any_decision_yet_has_a_log(tmp_path: Path) -> None:
    own = str(tmp_path / "lake")
    for trusted in (False, True):
        built = Built(made(tmp_path / f"built-{trusted}", own, trusted=trusted))
        said = take(built, tmp_path / f"log-{trusted}")
        assert_says(said, messages.BUILT, rows=300, decisions=0)
        assert built.decisions() == ""
        assert built.take_windows(tmp_path / f"log-{trusted}", tmp_path / f"windows-{trusted}") == 300


def test_a_trusted_log_is_kept_with_its_decisions_in_one_file(decisions: str, tmp_path: Path) -> None:
    ingested, trusted = (Built(made(tmp_path / f"built-{t}", decisions, trusted=t)) for t in (False, True))
    one, other = (json.loads((built.folder / INGEST_FILE).read_text()) for built in (ingested, trusted))
    for name in ("rows", "users", "fingerprint", "collected", "decisions"):
        assert one[name] == other[name]
    assert other["raw"]["log"].endswith("parts"), "`mtorl data forget` looks for users there"
    contents = {Manifest.read(built.folder / "windows").content_sha256 for built in (ingested, trusted)}
    assert len(contents) == 1 and other["users"] == 301


OTHER, DIFFERING = SPEC.replace(window=5, currency="EUR"), ["currency", "window"]
REFUSED: list[tuple[Callable[[Built], Any], dict[str, int], Words, dict[str, Any]]] = [
    (lambda b: (b.folder / LOG_FILE).unlink(), {}, messages.WITHOUT_LOG, {}),
    (lambda b: OTHER.save(b.folder.with_name("toy.yaml")), {}, messages.OTHER_DESCRIPTION, {"fields": DIFFERING}),
    (lambda b: None, {"users": 20}, messages.TAKEN_WHOLE, {"setting": "users"}),
    (lambda b: None, {"most_touchpoints": 20}, messages.TAKEN_WHOLE, {"setting": "most_touchpoints"}),
    (lambda b: forget(b.folder, frozenset({"old3"}), NOW), {}, messages.OTHER_WINDOWS, {}),
    (lambda b: (b.folder / "windows" / "manifest.json").write_text("{}"), {}, messages.NOT_WINDOWS, {}),
]


@pytest.mark.parametrize(("change", "wanted", "words", "values"), REFUSED)
def test_a_mismatch_with_the_request_is_refused(
    built: Built, tmp_path: Path, change: Callable[[Built], None], wanted: dict[str, int], words: Words, values: Any
) -> None:
    change(built)
    with raises(LogError, words, **values):
        take(built, tmp_path / "log", **wanted)
    assert not (tmp_path / "log").exists()


def test_a_folder_built_without_decisions_does_not_serve_them(tmp_path: Path) -> None:
    built = Built(made(tmp_path / "built", ""))
    assert built.decisions() is None
    with raises(LogError, messages.WITHOUT_DECISIONS):
        built.take_log(named(built), "2026-01-01T12:00:00+00:00 digest", 0, tmp_path / "log")
    built.take_log(named(built), "", 0, tmp_path / "log")
    assert built.take_windows(tmp_path / "log", tmp_path / "windows") == 300


def test_a_folder_replaced_during_reading_is_refused(
    built: Built, decisions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, before = log_folder.link, built.decisions()

    def replaced_first(source: Path, target: Path) -> None:
        monkeypatch.setattr(log_folder, "link", link)
        made(built.folder, decisions, rows=310)
        link(source, target)

    monkeypatch.setattr(log_folder, "link", replaced_first)
    with raises(LogError, messages.REPLACED, folder=built.folder):
        take(built, tmp_path / "half")
    for name, meanwhile in (
        ("log", lambda: made(built.folder, decisions, rows=320)),
        ("log-2", lambda: monkeypatch.setattr(log_folder, "link", replaced_first)),
        ("log-3", lambda: monkeypatch.setattr(log_folder, "link", lambda *_: shutil.rmtree(built.folder))),
    ):
        take(built, tmp_path / name)
        meanwhile()
        with raises(LogError, messages.REPLACED):
            built.take_windows(tmp_path / name, tmp_path / "windows" / name)

    made(built.folder, str(tmp_path / "no-lake"))
    with raises(LogError, messages.REPLACED):
        built.take_log(named(built), before or "", 0, tmp_path / "log-4")


def test_the_same_log_with_another_description_has_other_windows(built: Built, decisions: str, tmp_path: Path) -> None:
    take(built, tmp_path / "log")
    SPEC.replace(journey_gap_days=1).save(tmp_path / "log" / DATASET_FILE)
    with raises(LogError, messages.REPLACED):
        built.take_windows(tmp_path / "log", tmp_path / "windows")


def test_other_sources_are_no_built_folders_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    assert not any(map(Built.at, ("simulator", "s3://logs/built", "none.csv", "")))
    with raises(LogError, messages.REPLACED):
        Built.at(tmp_path / "built", known=True)


def test_decisions_are_not_added_twice(built: Built, decisions: str, tmp_path: Path) -> None:
    with open_engine("duckdb") as engine:
        with raises(LogError, messages.HAS_DECISIONS):
            build(engine, RawLog(str(built.folder), ""), tmp_path / "again", own=decisions)
        build(engine, RawLog(str(built.folder), ""), tmp_path / "again")
    assert not (tmp_path / "again.quarantine.csv").exists()
    again = Built(tmp_path / "again")
    assert again.decisions() == built.decisions()
    assert (again.folder / OPPORTUNITIES_FILE).read_bytes() == (built.folder / OPPORTUNITIES_FILE).read_bytes()
    assert (again.folder / "windows" / OPPORTUNITIES_FILE).exists(), "training reads this file"
