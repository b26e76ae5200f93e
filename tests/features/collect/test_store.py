"""Collected decisions and outcomes: however the log is cut into files and runs, the store is the same."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.collect import store as store_module
from features.collect.store import collect, hourly
from features.engine import open_engine
from mtorl.log.touchpoints import LogError
from tests.features.collect.decision_logs import START, decision, outcome, stored, write

ENGINES = pytest.mark.parametrize("engine", ["duckdb", pytest.param("spark", marks=pytest.mark.long)], indirect=True)

DECISIONS = [
    decision("a", 0),
    decision("b", 59),
    decision("b", 59.01, withdrawn=True, expose=False, fallback_reason="log"),
    decision("c", 61),
    decision("d", 185, expose=False),
    decision("e", 59.999),
    decision("e", 60.001, withdrawn=True, expose=False, fallback_reason="log"),  # in the next hour
]
OUTCOMES = [
    outcome("a-cost", "a"),
    outcome("a-click", "a", "click", 1.0, minutes=4000),  # days later
    outcome("c-cost", "c", minutes=62),
    outcome("c-cost", "c", minutes=62),  # sent twice
    outcome("x-cost", "nobody", minutes=62),
    outcome("e-cost", "e", minutes=61),
]


@pytest.fixture(scope="module")
def spark() -> Iterator[None]:
    """One for all tests: it takes ten seconds to start."""
    with open_engine("spark"):
        yield


@pytest.fixture
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting runs on it."""
    if request.param == "spark":
        request.getfixturevalue("spark")
    monkeypatch.setenv("ENGINE", request.param)


def content(store: Path) -> list[list[dict[str, Any]]]:
    """What a store holds, as text: NaN equals nothing.

    An outcome that was sent twice may lie beside a decision and beside its withdrawal, which readers know.
    """
    decisions, outcomes = (
        [{k: str(v) for k, v in row.items()} for row in stored(store, kind)] for kind in ("decision", "outcome")
    )
    return [decisions, list({row["event_id"]: row for row in outcomes}.values())]


def whole(folder: Path) -> list[list[dict[str, Any]]]:
    collect(write(folder / "log", DECISIONS, OUTCOMES), folder / "store")
    return content(folder / "store")


def test_each_decision_is_in_the_hour_in_which_it_was_taken(tmp_path: Path) -> None:
    write(tmp_path / "log", DECISIONS, OUTCOMES)
    added = collect(tmp_path / "log", tmp_path / "store")
    assert (added.decisions, added.outcomes, added.hours, added.unknown, added.unreadable) == (6, 4, 3, 1, ())
    hours = [path.parent.name for path in hourly(tmp_path / "store", "decision")]
    assert hours == ["hour=12", "hour=13", "hour=15"]
    assert [row["decision_id"] for row in stored(tmp_path / "store", "decision")] == list("abcdee")
    assert stored(tmp_path / "store", "decision")[1]["withdrawn"]
    assert [row["event_id"] for row in stored(tmp_path / "store", "outcome")] == [
        "a-click",
        "a-cost",
        "c-cost",
        "e-cost",
    ]


@pytest.mark.long
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    places=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=13, max_size=13),
    again=st.lists(st.integers(0, 12), max_size=6),
)
def test_the_store_does_not_depend_on_files_runs_or_order(
    tmp_path: Path, places: list[tuple[int, int]], again: list[int]
) -> None:
    """Each record comes in any file of any run, some twice: an outcome before its decision, an hour in parts."""
    expected = _once.setdefault("whole", whole(tmp_path / "whole"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        records = [*DECISIONS, *OUTCOMES]
        sent = [*zip(places, records, strict=True), *((places[-i], records[i]) for i in again)]
        for run in range(4):
            for file in range(3):
                here = [record for place, record in sent if place == (run, file)]
                decisions = [record for record in here if "event_id" not in record]
                outcomes = [record for record in here if "event_id" in record]
                write(folder / "log" / f"{run}-{file}", decisions, outcomes)
            collect(folder / "log", folder / "store")
        assert content(folder / "store") == expected


_once: dict[str, Any] = {}


@ENGINES
def test_a_run_writes_only_the_hours_that_gained_something(engine: None, tmp_path: Path) -> None:
    write(tmp_path / "log" / "1", DECISIONS, OUTCOMES[:1])
    collect(tmp_path / "log", tmp_path / "store")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("part.parquet")}
    assert collect(tmp_path / "log", tmp_path / "store").hours == 0
    write(tmp_path / "log" / "2", [], OUTCOMES[1:2])
    assert collect(tmp_path / "log", tmp_path / "store").hours == 1
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("part.parquet")}
    changed = {str(path.relative_to(tmp_path / "store")) for path in after if after[path] != before.get(path)}
    assert changed == {"outcomes/date=2026-01-01/hour=12/part.parquet"}


def test_what_the_log_has_deleted_stays(tmp_path: Path) -> None:
    expected = whole(tmp_path)
    for file in (tmp_path / "log").iterdir():
        file.unlink()
    assert collect(tmp_path / "log", tmp_path / "store").hours == 0
    assert content(tmp_path / "store") == expected


def test_a_file_that_is_cut_off_is_named_and_read_once_it_is_whole(tmp_path: Path) -> None:
    write(tmp_path / "log" / "1", DECISIONS[:4], OUTCOMES)
    file = write(tmp_path / "log" / "2", DECISIONS[4:]) / "decisions.parquet"
    complete = file.read_bytes()
    file.write_bytes(complete[:-20])
    added = collect(tmp_path / "log", tmp_path / "store")
    assert added.unreadable == (str(file),) and added.decisions == 3
    file.write_bytes(complete)
    collect(tmp_path / "log", tmp_path / "store")
    assert content(tmp_path / "store") == whole(tmp_path / "whole")


@ENGINES
def test_a_run_that_is_killed_between_two_hours_is_made_good_by_the_next(
    engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "log", DECISIONS, OUTCOMES)
    written = []

    class Killed(BaseException):
        pass

    def stop_after_two(*arguments: Any) -> int:
        written.append(merge(*arguments))
        if len(written) >= 2:
            raise Killed
        return written[-1]

    merge = store_module._Run._merge
    monkeypatch.setattr(store_module._Run, "_merge", stop_after_two)
    with pytest.raises(Killed):
        collect(tmp_path / "log", tmp_path / "store")
    monkeypatch.setattr(store_module._Run, "_merge", merge)
    collect(tmp_path / "log", tmp_path / "store")
    assert content(tmp_path / "store") == whole(tmp_path / "whole")


@ENGINES
def test_a_file_that_an_export_removes_meanwhile_is_no_fault(
    engine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export puts a segment that has grown into another folder, and removes the one before."""
    write(tmp_path / "log" / "segment-10", DECISIONS[:3])
    look, looked = store_module._Run._by_hour, []

    def superseded(run: Any, files: Any) -> Any:
        if not looked:
            looked.append(True)
            shutil.rmtree(tmp_path / "log" / "segment-10")
            write(tmp_path / "log" / "segment-20", DECISIONS, OUTCOMES)
        return look(run, files)

    monkeypatch.setattr(store_module._Run, "_by_hour", superseded)
    collect(tmp_path / "log", tmp_path / "store")
    assert looked and content(tmp_path / "store") == whole(tmp_path / "whole")


@ENGINES
def test_a_file_that_is_damaged_inside_is_named_and_the_others_are_read(engine: None, tmp_path: Path) -> None:
    write(tmp_path / "log" / "1", DECISIONS, OUTCOMES)
    damaged = write(tmp_path / "log" / "2", [decision("f", 300)]) / "decisions.parquet"
    complete = damaged.read_bytes()
    damaged.write_bytes(complete[:4] + bytes(200) + complete[204:])  # its footer is whole
    added = collect(tmp_path / "log", tmp_path / "store")
    assert added.unreadable == (str(damaged),) and str(damaged) in str(added)
    assert content(tmp_path / "store") == whole(tmp_path / "whole")
    damaged.write_bytes(complete)
    assert collect(tmp_path / "log", tmp_path / "store").decisions == 1


def test_hourly_folders_of_a_sink_are_read_too(tmp_path: Path) -> None:
    for kind in ("decisions", "outcomes"):
        target = tmp_path / "log" / kind / "date=2026-01-01" / "hour=12"
        target.mkdir(parents=True)
        write(tmp_path / "flat", DECISIONS, OUTCOMES)
        (tmp_path / "flat" / f"{kind}.parquet").rename(target / "part-1.parquet")
    collect(tmp_path / "log", tmp_path / "store")
    assert content(tmp_path / "store") == whole(tmp_path / "whole")


def test_an_outcome_that_nobody_expects_any_more_is_let_go(tmp_path: Path) -> None:
    write(tmp_path / "log" / "1", DECISIONS[:1], [outcome("x", "nobody")])
    assert collect(tmp_path / "log", tmp_path / "store").unknown == 1
    write(tmp_path / "log" / "2", [], [outcome("y", "nobody", minutes=40 * 24 * 60)])
    assert collect(tmp_path / "log", tmp_path / "store").unknown == 1


def test_an_outcome_of_a_clock_that_was_ahead_ends_no_waiting(tmp_path: Path) -> None:
    now = (datetime.now(UTC) - START).total_seconds() / 60
    write(
        tmp_path / "log" / "1",
        DECISIONS[:1],
        [outcome("x", "d", minutes=now), outcome("y", "e", minutes=2 * now + 1e6)],
    )
    assert collect(tmp_path / "log", tmp_path / "store").unknown == 2
    write(tmp_path / "log" / "2", [decision("d", now)])
    assert collect(tmp_path / "log", tmp_path / "store").outcomes == 1


def test_two_runs_do_not_collect_into_one_folder(tmp_path: Path) -> None:
    write(tmp_path / "log", DECISIONS)
    (tmp_path / "store").mkdir()
    with (tmp_path / "store" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LogError, match="another run is collecting"):
            collect(tmp_path / "log", tmp_path / "store")


def test_a_folder_without_decisions_says_what_would_be_one(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"no decisions\.parquet in this folder or below it"):
        collect(tmp_path, tmp_path / "store")
