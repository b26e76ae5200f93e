"""Tests that readers see the same records before, during and after a compaction."""

import contextlib
import math
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.collect import database
from features.collect.compact import Compacted, _to_merge, compact
from mtorl.log.forgotten import Forgotten
from mtorl.log.lake import Lake, LakeFile, was_uploaded_late
from mtorl.log.messages import OTHER_RECORDS
from mtorl.log.records import Kind
from mtorl.log.touchpoints import LogError
from tests.features.collect.decision_logs import START, add, decision, outcome, stored, write
from tests.features.collect.records import DECISIONS, OUTCOMES
from tests.lakes import ids_in
from tests.messages import raises
from tests.properties import examples

LATER = START + timedelta(days=4)
KINDS: tuple[Kind, ...] = ("decision", "outcome")


def content(place: Path) -> list[list[dict[str, str]]]:
    """Return all records that readers see, as text so that NaN equals NaN."""
    return [[{name: str(value) for name, value in row.items()} for row in stored(place, kind)] for kind in KINDS]


def small(lake: Path) -> Path:
    """Create a lake whose second upload has outcomes of decisions in the first."""
    write(lake, DECISIONS[:5], OUTCOMES[:3])
    return add(lake, DECISIONS[5:], OUTCOMES[3:])


def test_records_lie_in_the_hour_of_their_decision(tmp_path: Path) -> None:
    lake = Lake.open(small(tmp_path))
    before = content(tmp_path)
    done = compact(lake, LATER)
    assert (done.files, len(done.hours), done.unreadable) == (4, 3, [])
    assert [file.hour.hour for file in lake.closed("decision")] == [12, 13, 15]
    for kind in KINDS:
        assert not lake.arrived(kind)
        for file in lake.closed(kind):
            rows = pq.read_table(tmp_path / file.name, partitioning=None)
            assert set(rows["hour"].to_pylist()) == {file.hour}
            keys = list(zip(rows["bucket"].to_pylist(), rows["decision_id"].to_pylist(), strict=True))
            assert keys == sorted(keys)
    assert content(tmp_path) == before
    assert [row["decision_id"] for row in stored(tmp_path, "decision")] == list("abcde")
    assert [row["withdrawn"] for row in stored(tmp_path, "decision")] == [False, True, False, False, True]
    events = [row["event_id"] for row in stored(tmp_path, "outcome")]
    assert events == ["a-click", "a-cost", "c-cost", "e-cost", "x-cost"]


def test_an_event_id_shared_by_decisions_counts_once_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_SLICE_ROWS", 1)
    users = {name: f"u{number}" for number, name in enumerate("abcdef")}
    decisions = [decision(name, user_id=user) for name, user in users.items()]
    lake = Lake.open(write(tmp_path, decisions, [outcome("same", name) for name in (*users, "a")]))
    before = content(tmp_path)
    assert len(stored(tmp_path, "outcome")) == len(users)
    compact(lake, LATER)
    assert sorted(map(str, content(tmp_path)[1])) == sorted(map(str, before[1]))


def test_an_hour_is_closed_ten_minutes_after_its_end(tmp_path: Path) -> None:
    lake = Lake.open(write(tmp_path, DECISIONS[:1]))
    assert compact(lake, START + timedelta(minutes=69)).files == 0 and not lake.closed("decision")
    assert compact(lake, START + timedelta(minutes=70)).files == 1 and len(stored(tmp_path, "decision")) == 1
    assert compact(lake, START + timedelta(minutes=70)) == Compacted(), "a second run does nothing"


@settings(max_examples=examples(3, 8))
@given(
    places=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=13, max_size=13),
    again=st.lists(st.integers(0, 12), max_size=6),
)
def test_records_do_not_depend_on_files_runs_or_order(places: list[tuple[int, int]], again: list[int]) -> None:
    records: list[dict[str, Any]] = [*DECISIONS, *OUTCOMES]
    sent = [*zip(places, records, strict=True), *((places[-i], records[i]) for i in again)]
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        write(Path(one), DECISIONS, OUTCOMES)
        # Outcomes may be uploaded before their decisions, so the decisions' ids must be known in advance.
        ids_in(Path(other)).update(ids_in(Path(one)))
        for run in range(4):
            for file in range(3):
                here = [record for place, record in sent if place == (run, file)]
                decisions = [record for record in here if "event_id" not in record]
                add(Path(other), decisions, [record for record in here if "event_id" in record])
            compact(Lake.open(other), LATER)
        assert content(Path(other)) == content(Path(one))


class Killed(BaseException):
    pass


def at_each_change(monkeypatch: pytest.MonkeyPatch, then: Callable[[Path], object], folder: Path) -> list[Path]:
    """Compact one new lake for each moment, and call `then` at that moment; return the lakes.

    The moments are before and after each file operation.
    """
    originals = {name: getattr(Lake, name) for name in ("put", "write", "supersede")}
    lakes = []
    for stop in range(1, 100):
        place = small(folder / f"{stop}")
        changes = 0

        def changed(name: str, place: Path = place, stop: int = stop) -> Callable[..., Any]:
            def change(*arguments: Any, **named: Any) -> None:
                nonlocal changes
                for half in ("before", "after"):
                    changes += 1
                    if changes == stop:
                        for original in originals:
                            monkeypatch.setattr(Lake, original, originals[original])
                        then(place)
                    if half == "before":
                        originals[name](*arguments, **named)

            return change

        for name in originals:
            monkeypatch.setattr(Lake, name, changed(name))
        with contextlib.suppress(Killed):
            compact(Lake.open(place), LATER)
        for name, original in originals.items():
            monkeypatch.setattr(Lake, name, original)
        if changes < stop:
            return lakes
        lakes.append(place)
    raise AssertionError


def test_a_killed_compaction_loses_and_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = content(small(tmp_path / "expected"))

    def killed(_: Path) -> None:
        raise Killed

    lakes = at_each_change(monkeypatch, killed, tmp_path)
    assert len(lakes) > 20
    for place in lakes:
        assert content(place) == expected, place
        compact(Lake.open(place), LATER)
        assert content(place) == expected and not Lake.open(place).arrived("decision"), place


def test_two_compactors_at_once_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second compactor runs as a whole between two file operations of the first, at each possible point."""
    expected = content(small(tmp_path / "expected"))
    for place in at_each_change(monkeypatch, lambda lake: compact(Lake.open(lake), LATER), tmp_path):
        assert content(place) == expected, place


def test_a_file_that_a_listing_misses_is_taken_by_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = content(small(tmp_path))
    lake, arrived = Lake.open(tmp_path), Lake.arrived
    monkeypatch.setattr(Lake, "arrived", lambda lake, kind, since=None: arrived(lake, kind, since)[1:])
    compact(lake, LATER)
    monkeypatch.setattr(Lake, "arrived", arrived)
    assert content(tmp_path) == expected and compact(lake, LATER).files == 2
    assert content(tmp_path) == expected


def test_records_that_are_all_too_old_are_taken(tmp_path: Path) -> None:
    """The records come from a router that was offline until their hours had been removed."""
    lake = Lake.open(write(tmp_path, DECISIONS, OUTCOMES))
    Forgotten.add(tmp_path, [], LATER, before=LATER)
    assert compact(lake, LATER).files == 2
    assert content(tmp_path) == [[], []]


# ---- files that can't be read


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def damage(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:4] + bytes(200) + whole[204:])  # the footer stays valid


def foreign(file: Path) -> None:
    pq.write_table(pa.table({"words": ["of another program"]}), file)


@pytest.mark.parametrize("spoil", [cut, damage, foreign])
def test_an_unreadable_file_is_set_aside_and_others_are_taken(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    expected = content(write(tmp_path / "expected", DECISIONS, OUTCOMES))
    lake = Lake.open(write(tmp_path / "lake", DECISIONS, OUTCOMES))
    known = lake.arrived("decision")
    add(tmp_path / "lake", [decision("f", 62)])
    (bad,) = [file.name for file in lake.arrived("decision") if file not in known]
    spoil(tmp_path / "lake" / bad)
    done = compact(lake, LATER)
    assert done.unreadable == [bad] and bad in str(done) and (tmp_path / "lake" / "unreadable" / bad).exists()
    assert content(tmp_path / "lake") == expected and not lake.arrived("decision")


def test_a_file_that_cant_be_read_does_not_keep_a_forgotten_user_in_the_lake(tmp_path: Path) -> None:
    lake = Lake.open(write(tmp_path, DECISIONS))
    Forgotten.add(tmp_path, ["u1"], datetime.now(UTC))
    bad = "arrived/outcomes/date=2026-01-01/hour=12/half.parquet"
    (tmp_path / bad).parent.mkdir(parents=True)
    (tmp_path / bad).write_bytes(b"PAR1")
    (lake.folder / lake.arrived("decision")[0].name).touch()
    assert compact(lake, datetime.now(UTC)).unreadable == [bad]
    assert "u1" not in {row["user_id"] for row in stored(tmp_path, "decision")}


def test_a_file_of_an_hour_in_the_future_is_taken_an_hour_after_its_upload(tmp_path: Path) -> None:
    """A router's clock may be ahead, or an outcome's id may come from no router."""
    now = datetime.now(UTC)
    ahead = decision("ahead", (now + timedelta(days=400) - START) / timedelta(minutes=1))
    lake = Lake.open(write(tmp_path, [*DECISIONS, ahead]))
    assert compact(lake, now + timedelta(minutes=69)).files == 0
    assert compact(lake, now + timedelta(minutes=71)).files == 1 and not lake.arrived("decision")
    assert len(stored(tmp_path, "decision")) == 6 and lake.closed("decision", since=now)


def test_a_record_of_another_schema_version_stops_the_compaction(tmp_path: Path) -> None:
    lake = Lake.open(write(tmp_path, [decision("a", schema_version=2)]))
    with raises(LogError, OTHER_RECORDS, lake=lake.place):
        compact(lake, LATER)


# ---- merging


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(1, 1000), min_size=168, max_size=168), first=st.integers(1, 10**6))
def test_a_late_outcome_is_rewritten_only_a_few_times(sizes: list[int], first: int) -> None:
    files, rewritten, most = [LakeFile(START, "0", first)], 0, 0
    for number, size in enumerate([*sizes, 0], 1):
        files += [LakeFile(START, str(number), size)] if size else []
        now = START + timedelta(hours=number) if size else START + timedelta(days=9)
        for taken in _to_merge(files, now, 1 << 60).values():
            merged = LakeFile(START, f"{number}m", sum(file.size for file in taken))
            files = [file for file in files if file not in taken] + [merged]
            rewritten += merged.size
        most = max(most, len(files))
    assert sum(file.size for file in files) == first + sum(sizes)
    assert rewritten <= 8 * (first + sum(sizes)) and most <= 24
    smallest = min(file.size for file in files)
    assert len(files) <= 1 + math.log(sum(file.size for file in files) / smallest, 5), "few files remain"


def test_files_of_one_size_are_merged_and_hours_of_a_week_ago_are_one_file(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    write(tmp_path, [decision("a")])
    for number in range(8):
        add(tmp_path, [], [outcome(f"o{number}", "a", minutes=60 * number)])
        done = compact(lake, START + timedelta(hours=2 + number))
    assert done.merged == 1 and len(lake.closed("outcome")) == 1
    add(tmp_path, [], [outcome("uploaded late", "a", minutes=number)])
    compact(lake, START + timedelta(days=3))
    assert [was_uploaded_late(file) for file in lake.closed("outcome")] == [False, True]
    compact(lake, START + timedelta(days=9))
    assert [was_uploaded_late(file) for file in lake.closed("outcome")] == [True]
    assert len(stored(tmp_path, "outcome")) == 9


# ---- snapshots


def test_a_snapshot_changes_with_the_records(tmp_path: Path) -> None:
    lake = Lake.open(write(tmp_path, DECISIONS[:4]))
    until, digest = lake.snapshot().split()
    assert lake.snapshot() == f"{until} {digest}"
    add(tmp_path, [], OUTCOMES)
    later, other = lake.snapshot().split()
    assert other != digest and datetime.fromisoformat(later) > datetime.fromisoformat(until)
