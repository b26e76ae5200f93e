"""Tests that a user's records are removed from a lake, even while others write."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pyarrow.fs as pafs
import pytest
from fsspec.implementations.local import LocalFileSystem

from features.collect.compact import compact
from features.collect.removal import drop_hours, forget_in_bucket, remove_again
from features.forget.folder import forget
from mtorl.log.forgotten import Forgotten
from mtorl.log.lake import Lake, lake_database
from mtorl.log.records import Kind, unit_hash
from mtorl.log.touchpoints import LogError
from tests.features.collect.test_compact import Killed
from tests.lakes import id_of, upload
from tests.properties import examples

START = datetime(2026, 3, 1, 20, tzinfo=UTC)
NOW = START + timedelta(hours=6)
USERS = ["gone", *(f"stays{i}" for i in range(9))]


def bucket_at(folder: Path) -> Lake:
    """Return a lake without a local folder, like a lake in an object store."""
    files = pafs.PyFileSystem(pafs.FSSpecHandler(LocalFileSystem(auto_mkdir=True)))
    return Lake(pafs.SubTreeFileSystem(str(folder), files), "s3://ads/lake")


def fill(folder: Path, first: int = 0, number: int = 60, router: str = "r") -> None:
    records: dict[Kind, list[dict[str, Any]]] = {kind: [] for kind in get_args(Kind)}
    for i in range(first, first + number):
        user, at = USERS[i % 10], START + timedelta(minutes=5 * i)
        shared = {"decision_id": id_of(f"d{i}", at, user), "event_time": at.isoformat()}
        records["decision"].append({**shared, "user_id": user, "unit_hash": unit_hash(user)})
        records["outcome"].append({**shared, "event_id": f"e{i}", "kind": "cost", "value": 0.1})
        records["shadow"].append({**shared, "shadow_id": f"s{i}"})
        records["window"].append({**shared, "unit_hash": unit_hash(user), "window": "{}"})
    upload(folder, {kind: pd.DataFrame(rows) for kind, rows in records.items()}, router)


def rows(lake: Lake, kind: Kind) -> list[str]:
    with lake_database(lake) as db:
        found = db.execute(f"SELECT decision_id FROM {lake.records(db, kind)} ORDER BY 1").fetchall()
    return [name for (name,) in found]


def kept(number: int = 60) -> list[str]:
    return sorted(id_of(f"d{i}", START + timedelta(minutes=5 * i), USERS[i % 10]) for i in range(number) if i % 10)


def files_with(folder: Path, user: str) -> list[str]:
    return [path.name for path in folder.rglob("*.parquet") if user in pd.read_parquet(path).to_csv()]


def test_a_window_is_removed_although_its_decision_is_gone(tmp_path: Path) -> None:
    """An upload or a compaction dropped the decision after the user was forgotten."""
    fill(tmp_path)
    for path in (tmp_path / "arrived" / "decisions").rglob("*.parquet"):
        path.unlink()
    removed = forget_in_bucket(bucket_at(tmp_path), ["gone"], NOW)
    assert removed == Counter(decisions=0, outcomes=6, shadows=6, windows=6)


@pytest.mark.parametrize("make", [Lake.open, bucket_at], ids=["folder", "bucket"])
def test_a_user_leaves_closed_hours_uploads_and_superseded_files(make: Callable[[Path], Lake], tmp_path: Path) -> None:
    lake = make(tmp_path)
    fill(tmp_path, number=40)
    compact(Lake.open(tmp_path), NOW)
    # A router uploads again after a crash.
    fill(tmp_path, first=30, number=30)
    assert len(files_with(tmp_path, "gone")) > 2
    removed = forget_in_bucket(lake, {"gone"}, NOW)
    assert set(removed.values()) == {7}
    assert files_with(tmp_path, "gone") == [] and not lake.superseded()
    for kind in get_args(Kind):
        assert rows(lake, kind) == kept()
    for file in lake.closed("decision"):
        table = pd.read_parquet(tmp_path / file.name)
        assert table.equals(table.sort_values(["bucket", "decision_id"])), "a file stays sorted"
    again = forget_in_bucket(lake, {"gone"}, NOW)
    assert len(again) == 4 and not any(again.values())


def test_only_the_past_is_forgotten(tmp_path: Path) -> None:
    fill(tmp_path)
    assert forget_in_bucket(Lake.open(tmp_path), {"gone"}, START + timedelta(hours=2))["decisions"] == 3
    compact(Lake.open(tmp_path), NOW)
    assert len(rows(Lake.open(tmp_path), "decision")) == 57


def test_an_interrupted_removal_is_completed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = Lake.put
    for steps in count():
        folder = tmp_path / str(steps)
        fill(folder, number=30)
        compact(Lake.open(folder), START + timedelta(hours=1, minutes=20))
        left = iter(range(steps))

        def killed(*args: Any, left: Any = left) -> None:
            put(*args)  # killed before the old file is deleted
            if next(left, None) is None:
                raise Killed

        with monkeypatch.context() as patched, suppress(Killed):
            patched.setattr(Lake, "put", killed)
            forget_in_bucket(bucket_at(folder), {"gone"}, NOW)
            break
        forget_in_bucket(bucket_at(folder), {"gone"}, NOW + timedelta(seconds=1))
        assert files_with(folder, "gone") == []
        for kind in get_args(Kind):
            assert rows(Lake.open(folder), kind) == kept(30)
    assert steps >= 5


@pytest.mark.parametrize("is_killed", [False, True], ids=["goes on", "is killed"])
def test_a_concurrent_compaction_does_not_bring_a_user_back(
    is_killed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("put", "forgotten", "supersede")
    real = {name: getattr(Lake, name) for name in names}
    for after in count(int(is_killed), examples(2, 1)):
        folder = tmp_path / str(after)
        fill(folder, number=15)
        fill(folder, first=5, number=15, router="s")
        moments = count()

        def touched(name: str, folder: Path = folder, moments: Any = moments, after: int = after) -> Any:
            def call(self: Lake, *args: Any) -> Any:
                answer = real[name](self, *args)
                if self.folder is not None and next(moments) == after:
                    forget_in_bucket(bucket_at(folder), {"gone"}, NOW)
                    if is_killed:
                        raise Killed
                return answer

            return call

        with monkeypatch.context() as patched:
            for name in names:
                patched.setattr(Lake, name, touched(name))
            with suppress(Killed, LogError, OSError):
                compact(Lake.open(folder), NOW)
        if next(moments) <= after:
            break
        assert is_killed or rows(Lake.open(folder), "decision") == kept(20), "the user returned until the next run"
        compact(Lake.open(folder), NOW + timedelta(hours=1))
        lake = Lake.open(folder)
        assert rows(lake, "decision") == kept(20)
        lake.supersede([], 0)
        assert files_with(folder, "gone") == []
    assert after > 10


def test_a_compaction_removes_rows_that_a_killed_writer_left(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    forget_in_bucket(bucket_at(tmp_path), {"gone"}, NOW)
    # The writer hasn't yet read the list of forgotten users.
    fill(tmp_path)
    remove_again(lake, NOW + timedelta(hours=30))
    assert rows(lake, "decision") == kept() and rows(lake, "outcome") == kept()
    fill(tmp_path)
    remove_again(lake, NOW + timedelta(days=3))
    assert len(rows(lake, "decision")) == 60, "removal is repeated for two days only"


def test_concurrent_removals_keep_both_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    write, others = Lake.write, iter([True])

    def overwritten(self: Lake, name: str, text: str) -> None:
        write(self, name, text)
        if next(others, False):  # another writer that read the file earlier
            write(self, name, Forgotten().extended(["stays1"], NOW).text())

    monkeypatch.setattr(Lake, "write", overwritten)
    forget_in_bucket(bucket_at(tmp_path), {"gone"}, NOW)
    assert set(bucket_at(tmp_path).forgotten().users) == {unit_hash("gone"), unit_hash("stays1")}


def test_old_hours_are_dropped_with_all_files(tmp_path: Path) -> None:
    fill(tmp_path, number=40)
    compact(Lake.open(tmp_path), START + timedelta(hours=10))
    fill(tmp_path, first=12, number=3)
    lake = Lake.open(tmp_path)
    removed = drop_hours(lake, START + timedelta(hours=2, minutes=30))
    assert removed == Counter(decisions=27, outcomes=27, shadows=27, windows=27)
    assert [file.hour.hour for file in lake.closed("decision")] == [22, 23] and not lake.arrived("decision")
    assert not (tmp_path / "decisions" / "date=2026-03-01" / "hour=20").exists()
    assert not drop_hours(lake, START)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    fill(tmp_path / "lake", number=10)
    (damaged, *_) = Lake.open(tmp_path / "lake").arrived("decision")
    (tmp_path / "lake" / damaged.name).write_bytes(b"half")
    assert compact(Lake.open(tmp_path / "lake"), NOW).unreadable == [damaged.name]
    (line,) = forget(tmp_path, frozenset({"gone"}), NOW).failed
    assert line.startswith(f"lake/unreadable/{damaged.name}: ")
