"""Hours that are collected again: what was lost is back, and nothing else has changed, however often and ended."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from features.collect import store as store_module
from features.collect.store import Hours, collect, collect_again, is_store
from mtorl.log.touchpoints import LogError
from tests.features.collect.decision_logs import decision, outcome, stored, write
from tests.features.collect.test_store import DECISIONS, ENGINES, OUTCOMES, content, engine, spark, whole

__all__ = ["engine", "spark"]  # fixtures
NOON = Hours.named("2026-01-01T12:00:00Z", "2026-01-01T13:00:00Z")
ONE = Hours.named("2026-01-01T13:00:00Z", "2026-01-01T14:00:00Z")


def marks(store: Path, hour: str = "*") -> dict[str, tuple[int, int]]:
    """Inode and time of each file of some hours."""
    files = sorted(store.glob(f"*/*/hour={hour}/part.parquet"))
    return {str(file.relative_to(store)): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def damage(store: Path, hour: str) -> None:
    """An hour of which the files are gone."""
    for folder in store.glob(f"*/date=2026-01-01/hour={hour}"):
        shutil.rmtree(folder)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Files that do not end with an hour: one has the decisions of three hours."""
    write(tmp_path / "log" / "1", DECISIONS[:4], OUTCOMES[:3])
    write(tmp_path / "log" / "2", DECISIONS[4:], OUTCOMES[3:])
    return tmp_path / "log"


@ENGINES
def test_an_hour_that_was_lost_is_back_and_nothing_else_changes(engine: None, log: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    collect(log, store)
    expected = content(store)
    damage(store, "12")
    damage(store, "13")
    others, read = marks(store), (store / "read.json").read_bytes()
    assert collect(log, store).hours == 0, "it has read these files"
    added = collect_again(log, store, NOON)
    assert (added.decisions, added.outcomes, added.hours, added.unknown) == (3, 3, 1, 1)
    noon = marks(store, "12")
    assert marks(store) == others | noon and (store / "read.json").read_bytes() == read
    again = collect_again(log, store, NOON)
    assert (again.decisions, again.outcomes, again.hours) == (0, 0, 0) and marks(store) == others | noon
    collect_again(log, store, ONE)
    assert content(store) == expected == whole(tmp_path / "whole")


def test_a_file_that_was_mended_and_looks_the_same(log: Path, tmp_path: Path) -> None:
    """As when a copy keeps times: it has more decisions, and lacks nothing of those in it."""
    store = tmp_path / "store"
    collect(log, store)
    write(log / "1", [*DECISIONS[:4], decision("new", 5), decision("newer", 65)], OUTCOMES[:3])
    read = json.loads((store / "read.json").read_text())
    read["1/decisions.parquet"] = store_module.mark_of(log / "1" / "decisions.parquet")
    (store / "read.json").write_text(json.dumps(read))
    assert collect(log, store).decisions == 0
    added = collect_again(log, store, NOON)
    assert added.decisions == 1 and "new" in [row["decision_id"] for row in stored(store, "decision")]
    assert "newer" not in [row["decision_id"] for row in stored(store, "decision")], "it is of the next hour"


def test_files_that_came_meanwhile_are_left_to_the_next_run(log: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    collect(log, store)
    write(log / "3", [decision("early", 10), decision("late", 190)], [outcome("late-cost", "late", minutes=191)])
    assert collect_again(log, store, NOON).decisions == 1
    added = collect(log, store)
    assert (added.decisions, added.outcomes) == (1, 1)


def test_an_outcome_that_waited_for_its_decision_waits_no_more(log: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    write(log / "3", [], [outcome("y-cost", "y", minutes=9), outcome("z-cost", "z", minutes=62)])
    assert collect(log, store).unknown == 3
    shutil.rmtree(log / "3")
    write(log / "4", [decision("y", 8), decision("z", 61)])
    added = collect_again(log, store, NOON)
    assert (added.decisions, added.outcomes, added.unknown) == (1, 1, 2)
    assert "y-cost" in [row["event_id"] for row in stored(store, "outcome")]
    assert collect(log, store).unknown == 1 and "z-cost" in [row["event_id"] for row in stored(store, "outcome")]


def test_an_outcome_lies_beside_the_decision_and_not_its_withdrawal(log: Path, tmp_path: Path) -> None:
    """Which lies in the hour that is collected again."""
    store = tmp_path / "store"
    collect(log, store)
    expected = content(store)
    collect_again(log, store, ONE)
    assert content(store) == expected


@pytest.mark.parametrize("merges", range(1, 4))
def test_what_is_killed_anywhere_is_made_good_by_the_next(
    merges: int, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, hours = tmp_path / "store", Hours.named("2026-01-01T12:00", "2026-01-01T14:00")
    collect(log, store)
    expected = content(store)
    damage(store, "12")
    damage(store, "13")
    done = []

    class Killed(BaseException):
        pass

    def stop(*arguments: Any) -> int:
        if len(done) >= merges:
            raise Killed
        done.append(merge(*arguments))
        return done[-1]

    merge = store_module._Run._merge
    monkeypatch.setattr(store_module, "_AT_ONCE", 1)
    monkeypatch.setattr(store_module._Run, "_merge", stop)
    with pytest.raises(Killed):
        collect_again(log, store, hours)
    monkeypatch.setattr(store_module._Run, "_merge", merge)
    collect_again(log, store, hours)
    assert content(store) == expected


def test_what_the_log_has_deleted_stays_and_an_empty_store_is_one(log: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    collect_again(log, store, NOON)
    assert is_store(store) and len(stored(store, "decision")) == 3
    shutil.rmtree(log)
    assert collect_again(log, store, NOON).hours == 0 and len(stored(store, "decision")) == 3


@pytest.mark.parametrize(
    ("since", "until", "words"),
    [
        ("", "2026-01-02", "since: '' is not an ISO time"),
        ("2026-01-02", "noon", "until: 'noon' is not an ISO time"),
        ("2026-01-02", "2026-01-02", "nothing lies between"),
        ("2026-01-02T12:00+02:00", "2026-01-02T10:00Z", "nothing lies between"),
    ],
)
def test_a_period_is_two_times(since: str, until: str, words: str) -> None:
    with pytest.raises(LogError, match=words):
        Hours.named(since, until)


def test_an_hour_that_is_begun_counts() -> None:
    assert Hours.named("2026-01-01T12:59:59", "2026-01-01T14:00:01+01:00") == Hours(NOON.since, ONE.until)
