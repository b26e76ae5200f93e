"""Tests that a user is removed from all files, and that other users' rows stay identical."""

import fcntl
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from features.collect import removal
from features.collect.compact import compact
from features.forget import folder as stores
from features.forget.folder import Report, forget
from features.forget.tables import Rows
from features.ingest.log_folder import RawLog, ingest
from features.messages import FILE_GONE, STILL_THERE
from features.offline import store as feature_store
from features.online.feed import Feed
from features.online.open_history import open_history
from features.sequences.builder import build_windows
from features.sequences.manifest import Manifest
from mtorl.log.dataset import DatasetSpec
from mtorl.log.forgotten import ForgottenError
from mtorl.log.lake import Lake, lake_database
from mtorl.log.records import VERSION, Kind
from mtorl.log.touchpoints import LogError, fingerprint
from mtorl.runtime.messages import BUSY
from mtorl.window.table import WindowTable
from tests.features.collect.decision_logs import START, decision, outcome, write
from tests.features.collect.test_compact import KINDS, Killed
from tests.lakes import id_of, ids_in
from tests.messages import assert_says, raises

SPEC = DatasetSpec.load("simulator")
WHO, OTHER = "u000003", "u000004"
NOW = datetime(2027, 1, 1, tzinfo=UTC)
DECIDED = {"a": (0, WHO), "b": (1, OTHER), "c": (70, WHO), "d": (130, OTHER), "e": (190, WHO)}
DECISIONS = [decision(name, minutes, user_id=user) for name, (minutes, user) in DECIDED.items()]
IDS = {name: id_of(name, START + timedelta(minutes=minutes), user) for name, (minutes, user) in DECIDED.items()}
THEIRS = [IDS[name] for name in "ace"]
OUTCOMES = [outcome(f"{name}-cost", name, minutes=200) for name in "abcd"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "volume"
    ingest(RawLog(users=30), root / "data", root / "data" / "quarantine.csv")
    log = root / "data" / "touchpoints.parquet"
    build_windows(root / "data", root / "windows")
    feature_store.create(root / "features", SPEC, log)
    feature_store.materialize(root / "features", SPEC, log)
    write(root / "lake", DECISIONS, OUTCOMES)
    lake = Lake.open(root / "lake")
    (root / "flat").mkdir()
    with lake_database(lake) as db:
        for kind in KINDS:
            rows = db.sql(f"SELECT * FROM {lake.records(db, kind)} ORDER BY ALL")
            rows.write_parquet(str(root / "flat" / f"{kind}s.parquet"))
    shutil.copy(root / "flat" / "decisions.parquet", root / "windows" / "opportunities.parquet")
    compact(lake, NOW)
    write(root / "lake", DECISIONS, OUTCOMES)  # a router repeats its upload
    (root / "data" / "quarantine.csv").write_text(
        f'row,uid,words,fault\n1,{WHO},"a, ""b""",bad\n2,{OTHER},"c\nd",bad\n'
    )
    return root


@pytest.fixture
def volume(made: Path, tmp_path: Path) -> Path:
    volume = Path(shutil.copytree(made, tmp_path / "volume"))
    ids_in(volume / "lake").update(IDS)
    return volume


def content(root: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(root.rglob("*")):
        if path.suffix == ".db" and path.name != "registry.db":
            with closing(sqlite3.connect(path)) as db:
                found[str(path.relative_to(root))] = "\n".join(db.iterdump()).encode()
        elif path.is_file() and not path.name.endswith(("-wal", "-shm", ".lock")):
            found[str(path.relative_to(root))] = path.read_bytes()
    return found


def names(root: Path, user: str) -> list[str]:
    found = []
    for path in sorted(root.rglob("*")):
        if path.is_file():
            values = pd.read_parquet(path).astype(str).to_csv() if path.suffix == ".parquet" else ""
            if user.encode() in path.read_bytes() or user in values:
                found.append(str(path.relative_to(root)))
    return found


def tables(root: Path) -> dict[str, pd.DataFrame]:
    paths = [path for path in sorted(root.rglob("*.parquet")) if "lake" not in path.parts]
    return {str(path.relative_to(root)): pq.ParquetFile(path).read().to_pandas().map(str) for path in paths}


def in_lake(root: Path, kind: Kind) -> pd.DataFrame:
    lake = Lake.open(root / "lake")
    with lake_database(lake) as db:
        return db.sql(f"SELECT * FROM {lake.records(db, kind)} ORDER BY ALL").df()


def test_nothing_is_left_and_others_keep_every_row(made: Path, volume: Path) -> None:
    assert len(names(volume, WHO)) > 10
    before, lake_before = tables(made), {kind: in_lake(made, kind) for kind in KINDS}
    report = forget(volume, frozenset({WHO}), NOW)
    assert not report.failed and names(volume, WHO) == []
    touchpoints = (before["data/touchpoints.parquet"]["user_id"] == WHO).sum()
    assert report.removed["data/touchpoints.parquet"] == report.removed["windows"] == touchpoints > 0
    assert report.removed["flat/decisions.parquet"] == 3 and report.removed["lake/decisions"] == 6
    assert report.removed["flat/outcomes.parquet"] == 2 and report.removed["lake/outcomes"] == 4
    assert report.removed["features (online store)"] == report.removed["data/quarantine.csv"] == 1
    after = tables(volume)
    assert set(after) == set(before)
    for kind in KINDS:
        kept = lake_before[kind][~lake_before[kind]["decision_id"].isin(THEIRS)]
        pd.testing.assert_frame_equal(in_lake(volume, kind), kept.reset_index(drop=True))
        assert len(kept) == {"decision": 2, "outcome": 2}[kind]
    for name, rows in after.items():
        key = "user_id" if "user_id" in rows else "decision_id" if "decision_id" in rows else None
        kept = before[name] if key is None else before[name][~before[name][key].isin([WHO, *THEIRS])]
        pd.testing.assert_frame_equal(rows, kept.reset_index(drop=True))
        assert pq.read_schema(volume / name).equals(pq.read_schema(made / name), check_metadata=True), name
    log = pd.read_parquet(volume / "data" / "touchpoints.parquet")
    noted = json.loads((volume / "data" / "ingest.json").read_text())
    users = log["user_id"].nunique()
    assert (noted["rows"], noted["users"], noted["fingerprint"]) == (len(log), users, fingerprint(log))
    manifest = Manifest.read(volume / "windows")
    (shard,) = manifest.shards
    assert (shard.rows, shard.users, manifest.journeys) == (len(log), users, manifest.users)
    assert len(WindowTable.load(volume / "windows").rows) == len(log), "a checksum does not fit"
    found = content(volume)
    report = forget(volume, frozenset({WHO, "a stranger"}), NOW)
    assert report.removed and not any(report.removed.values()) and not report.failed
    del found["forgotten.json"]
    assert found.items() <= content(volume).items()


def test_an_interrupted_removal_is_completed_by_the_next_run(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal.secrets, "token_hex", lambda _: "new")
    whole = Path(shutil.copytree(made, tmp_path / "whole"))
    forget(whole, frozenset({WHO}), NOW)

    each = stores._Work.each
    for steps in range(0, 40, 3):
        volume = Path(shutil.copytree(made, tmp_path / f"volume-{steps}"))
        left = iter(range(steps))

        def stop_after(self: Any, path: Path, *args: Any, left: Any = left, **kwargs: Any) -> None:
            each(self, path, *args, **kwargs)
            if next(left, None) is None:
                raise Killed

        monkeypatch.setattr(stores._Work, "each", stop_after)
        with suppress(Killed):
            forget(volume, frozenset({WHO}), NOW)
        monkeypatch.setattr(stores._Work, "each", each)
        assert not forget(volume, frozenset({WHO}), NOW).failed
        assert content(volume) == content(whole)
        shutil.rmtree(volume)


def test_a_forgotten_user_stays_out_of_compaction_but_may_return_as_new(volume: Path) -> None:
    forget(volume, frozenset({WHO}), NOW)
    feature_store.materialize(volume / "features", SPEC, volume / "data" / "touchpoints.parquet")
    assert names(volume / "features", WHO) == [] and names(volume / "features", OTHER) != []
    later = [decision("f", (NOW - START) / timedelta(minutes=1) + 1, user_id=WHO)]
    write(volume / "lake", [*DECISIONS, *later])
    compact(Lake.open(volume / "lake"), NOW + timedelta(hours=2))
    assert set(in_lake(volume, "decision")["decision_id"]) == {ids_in(volume / "lake")[name] for name in "bdf"}


SHOWN = {"channel": "search", "context": {"hour": 1.0, "device": "mobile", "placement": "feed"}}
TYPES = f"mtorl.decision.v{VERSION}", f"mtorl.outcome.v{VERSION}"


def test_a_feed_does_not_bring_a_user_back(volume: Path) -> None:
    with open_history(volume / "features", SPEC) as history:
        feed = Feed(history, volume / "features", place=volume / "features")
        feed.take([(TYPES[0], {**record, **SHOWN}) for record in DECISIONS])
        report = forget(volume, frozenset({WHO}), NOW)
        assert not report.failed
        assert feed.take([(TYPES[1], outcome("a-cost", "a")), (TYPES[0], decision("late", user_id=WHO, **SHOWN))]) == 0
        assert feed.take([(TYPES[1], outcome("late-cost", "late"))]) == 0
        assert feed.take([(TYPES[1], outcome("b-cost", "b"))]) == 1
    assert names(volume, WHO) == []


def test_a_user_forgotten_while_a_feed_writes_does_not_stay(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_history(volume / "features", SPEC) as history:
        feed, change = Feed(history, volume / "features", place=volume / "features"), history.change

        def meanwhile(changes: Any) -> set[str]:
            assert not forget(volume, frozenset({WHO}), NOW).failed
            return change(changes)

        monkeypatch.setattr(history, "change", meanwhile)
        feed.take([(TYPES[0], {**record, **SHOWN}) for record in DECISIONS])
    assert names(volume, WHO) == []


def test_old_rows_are_removed_and_do_not_return(volume: Path) -> None:
    report = forget(volume, frozenset(), NOW, before=START + timedelta(minutes=100))
    assert report.removed["lake/decisions"] == 2 and report.removed["windows/opportunities.parquet"] == 3
    assert report.removed["features (online store)"] == report.removed["windows"] == 0
    log = pd.read_parquet(volume / "data" / "touchpoints.parquet")
    assert (log["timestamp"] >= START + timedelta(minutes=100)).all()
    compact(Lake.open(volume / "lake"), NOW)
    write(volume / "lake", DECISIONS, OUTCOMES)
    compact(Lake.open(volume / "lake"), NOW)
    # Decision c's hour is kept, because some of its records are young enough.
    kept = {IDS[name] for name in "cde"}
    assert set(in_lake(volume, "decision")["decision_id"]) == kept


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b""])
def test_an_unreadable_file_is_reported_and_skipped(volume: Path, damage: Callable[[bytes], bytes]) -> None:
    path = volume / "flat" / "decisions.parquet"
    path.write_bytes(damage(path.read_bytes()))
    report = forget(volume, frozenset({WHO}), NOW)
    assert [line.split(":")[0] for line in report.failed] == ["flat/decisions.parquet"] * len(report.failed)
    assert report.failed and report.removed["data/touchpoints.parquet"]


def test_old_leftovers_of_a_killed_process_are_reported(volume: Path) -> None:
    for name, hours in ((".touchpoints.parquet.0123abcd", 30), (".ingest.json.0123abcd", 1)):
        (volume / "data" / name).write_bytes(b"half of a file")
        os.utime(volume / "data" / name, (time.time() - hours * 3600,) * 2)
    for name, hours in ((".scratch-k1ll3d_x", 30), (".scratch-at_w0rk_", 1)):
        shutil.copytree(volume / "flat", volume / "flat" / name)
        os.utime(volume / "flat" / name, (time.time() - hours * 3600,) * 2)
    report = forget(volume, frozenset({WHO}), NOW)
    named = [line.split(":")[0] for line in report.failed]
    assert named == ["data/.touchpoints.parquet.0123abcd", "flat/.scratch-k1ll3d_x"]


def test_a_second_concurrent_removal_is_refused(volume: Path) -> None:
    with (volume / ".forgotten.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with raises(ForgottenError, BUSY, folder=volume):
            forget(volume, frozenset({WHO}), NOW)
    with pytest.raises(LogError, match=r"no feature_store\.yaml"):
        forget(volume, frozenset({WHO}), NOW, feature_repo=volume / "data")


def test_parts_of_a_table_and_sparks_checksums(tmp_path: Path) -> None:
    log = tmp_path / "touchpoints.parquet"
    log.mkdir()
    for part, users in enumerate((["u1", "u2"], ["u3"])):
        pd.DataFrame({"user_id": users, "n": 1}).to_parquet(log / f"part-{part}.parquet")
        (log / f".part-{part}.parquet.crc").touch()
    untouched = (log / "part-1.parquet").read_bytes()
    assert forget(tmp_path, frozenset({"u1"}), NOW).removed == {"touchpoints.parquet": 1}
    assert pd.read_parquet(log)["user_id"].to_list() == ["u2", "u3"]
    assert (log / "part-1.parquet").read_bytes() == untouched
    assert not (log / ".part-0.parquet.crc").exists() and (log / ".part-1.parquet.crc").exists()


def test_numeric_ids_of_a_table_are_removed(tmp_path: Path) -> None:
    pd.DataFrame({"user_id": [1, 12, 2], "x": 0.5}).to_parquet(tmp_path / "raw.parquet")
    assert Rows(frozenset({"1"})).remove(tmp_path / "raw.parquet") == 1
    assert pd.read_parquet(tmp_path / "raw.parquet")["user_id"].to_list() == [12, 2]


def test_all_users_may_be_removed(volume: Path) -> None:
    everyone = frozenset(pd.read_parquet(volume / "data" / "touchpoints.parquet")["user_id"])
    report: Report = forget(volume, everyone, NOW)
    assert not report.failed and Manifest.read(volume / "windows").rows == 0
    assert not any(forget(volume, everyone, NOW).removed.values())


def test_raw_files_that_still_contain_the_user_are_reported(tmp_path: Path) -> None:
    own, volume = tmp_path / "own", tmp_path / "volume"
    own.mkdir()
    hours = pd.date_range("2026-01-01", periods=40, freq="h", tz="UTC").astype(str)
    rows = pd.DataFrame({"uid": [f"u{i % 4}" for i in range(40)], "timestamp": hours, "slot": ["a", "b"] * 20})
    rows = rows.assign(imp=[f"i{i}" for i in range(40)])
    rows.to_csv(own / "log.csv", index=False)
    orders = rows.loc[[1, 6, 9], ["imp", "timestamp"]].assign(amount=2.0)
    orders.to_csv(own / "orders.csv", index=False)
    pd.DataFrame({"user_id": ["u1", "u2"], "timestamp": pd.Timestamp("2026-01-01", tz="UTC"), "age": 1.0}).to_parquet(
        own / "ages.parquet"
    )
    (own / "own.yaml").write_text(
        """{name: own, channels: [a, b], propensity: channel-frequency,
        columns: {user_id: uid, channel: slot, touchpoint_id: imp, campaign_id: {value: all}, cost: {value: 1},
            click: {value: 0}, conversion: {value: 0}},
        conversions: {source: orders.csv, columns: {touchpoint_id: imp, timestamp: timestamp, revenue: amount}},
        features: [{view: ages, source: ages.parquet, key: user_id, fields: [{name: age, kind: numeric}]}],
        timed: [revenue], reward: {gain: revenue}}"""
    )
    ingest(RawLog(str(own / "log.csv"), str(own / "own.yaml")), volume / "data", volume / "quarantine.csv")
    shutil.copytree(volume / "data", volume / "pipeline" / "log")  # a copy is not reported twice
    before = content(own)
    left_out = volume / "data" / "conversions-left-out.csv"
    left_out.write_text("row,uid,reason\n3,u1,no_touchpoint\n4,u2,no_touchpoint\n")
    report = forget(volume, frozenset({"u1"}), NOW)
    assert left_out.read_text() == "row,uid,reason\n4,u2,no_touchpoint\n"
    found = [("log.csv", 10, "uid"), ("orders.csv", 2, "imp"), ("ages.parquet", 1, "user_id")]
    assert not report.failed and len(report.raw) == 3
    for said, (file, count, column) in zip(report.raw, found, strict=True):
        assert_says(said, STILL_THERE, file=str(own / file), rows=count, column=column)
    assert content(own) == before
    rows[rows["uid"] != "u1"].to_csv(own / "log.csv", index=False)
    (own / "orders.csv").unlink()
    pd.DataFrame({"user_id": ["u2"]}).to_parquet(own / "ages.parquet")
    (gone,) = forget(volume, frozenset({"u1"}), NOW).raw
    assert_says(gone, FILE_GONE, file=str(own / "orders.csv"))
