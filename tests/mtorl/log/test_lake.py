"""Tests that a reader of a lake gets each record once while files are replaced."""

import logging
import re
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.fs as pafs
import pytest

from features.collect.compact import KEPT_SECONDS, compact
from mtorl.log.lake import HOUR, Lake, LakeFile, lake_database, name_of
from mtorl.log.messages import NO_LAKE, OTHER_RECORDS
from mtorl.log.touchpoints import LogError
from mtorl.runtime.duckdb_files import LakeFiles
from tests.lakes import id_of, upload
from tests.messages import raises

BEGIN = datetime(2026, 3, 1, 22, tzinfo=UTC)


def decisions(number: int, first: int = 0, **columns: Any) -> pd.DataFrame:
    times = [BEGIN + timedelta(minutes=10 * i) for i in range(first, first + number)]
    ids = [id_of(f"d{i}", time) for i, time in enumerate(times, first)]
    users = [f"u{i:02}" for i in range(first, first + number)]
    return pd.DataFrame({"decision_id": ids, "user_id": users, "event_time": times, **columns})


def found(lake: Lake, *period: datetime, where: str = "true") -> list[str]:
    with lake_database(lake) as db:
        records = lake.records(db, "decision", *period, where=where)
        return [user for (user,) in db.execute(f"SELECT user_id FROM {records} ORDER BY 1").fetchall()]


def test_an_empty_lake_has_the_columns(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "none")
    assert not lake and found(lake) == []
    with lake_database(lake) as db:
        columns = db.sql(f"FROM {lake.records(db, 'outcome')}").columns
    assert {"event_id", "decision_id", "value", "hour", "bucket"} <= set(columns)


def test_a_period_prunes_hours_and_keeps_late_records(tmp_path: Path) -> None:
    every = decisions(18)
    lake = upload(tmp_path, {"decision": every[6:]})
    upload(lake, {"decision": every[:6]})
    assert found(lake) == list(every["user_id"])
    assert found(lake, BEGIN + HOUR, BEGIN + 2 * HOUR) == list(every["user_id"][6:12])
    late = lake.arrived("decision", BEGIN + 2 * HOUR)
    assert [file.hour for file in late] == [BEGIN + 2 * HOUR], "a file is in the folder of its newest hour"


def test_records_in_several_files_count_once(tmp_path: Path) -> None:
    every = decisions(6)
    lake = upload(tmp_path, {"decision": every})
    compact(lake, BEGIN + 3 * HOUR)
    # A compaction was killed before it hid the files that it had read.
    upload(lake, {"decision": every})
    assert found(lake) == list(every["user_id"])
    withdrawn = every[:1].assign(withdrawn=True)
    upload(lake, {"decision": withdrawn})
    with lake_database(lake) as db:
        rows = db.execute(f"SELECT decision_id FROM {lake.records(db, 'decision')} WHERE withdrawn").fetchall()
    assert rows == [(every["decision_id"][0],)]


def test_superseded_files_are_hidden_at_once_and_deleted_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = decisions(6)
    lake = upload(tmp_path, {"decision": every})
    with lake_database(lake) as db:
        query = f"SELECT count(*) FROM {lake.records(db, 'decision')}"  # from a reader that started earlier
        (old,) = lake.arrived("decision")
        compact(lake, BEGIN + 3 * HOUR)
        assert lake.arrived("decision") == [] and found(lake) == list(every["user_id"])
        assert db.execute(query).fetchall() == [(6,)]
    now = datetime.now(UTC).timestamp()
    monkeypatch.setattr("mtorl.log.lake.time.time", lambda: now + KEPT_SECONDS + 1)
    lake.supersede([], KEPT_SECONDS)
    assert not (tmp_path / old.name).exists() and not lake.superseded()
    assert found(lake) == list(every["user_id"])


def test_a_file_deleted_during_a_read_is_a_clear_error(tmp_path: Path) -> None:
    lake = upload(tmp_path, {"decision": decisions(6)})
    with pytest.raises(LogError, match="try again"), lake_database(lake) as db:
        query = f"SELECT count(*) FROM {lake.records(db, 'decision')}"
        (tmp_path / lake.arrived("decision")[0].name).unlink()
        db.execute(query)


def test_a_record_of_another_version_is_a_clear_error(tmp_path: Path) -> None:
    lake = upload(tmp_path, {"decision": decisions(6, schema_version=9)})
    with raises(LogError, OTHER_RECORDS, lake=lake.place), lake_database(lake) as db:
        db.execute(f"SELECT count(*) FROM {lake.records(db, 'decision')}").fetchall()


def test_hidden_and_foreign_files_are_ignored(tmp_path: Path) -> None:
    lake = upload(tmp_path, {"decision": decisions(6)})
    folder = (tmp_path / lake.arrived("decision")[0].name).parent
    for name in (".unfinished.parquet", "notes.txt"):
        (folder / name).write_text("rubbish")
    assert len(found(lake)) == 6


def test_threads_share_a_file(tmp_path: Path) -> None:
    """DuckDB's threads seek and read in one file at once, so each needs its own position."""
    content = bytes(range(256)) * 2000
    (tmp_path / "file").write_bytes(content)
    file = LakeFiles(pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())).open("lake://file")
    wrong: list[int] = []

    def read(seed: int) -> None:
        for i in range(500):
            at = (seed * 7919 + i * 104_729) % (len(content) - 5000)
            file.seek(at)
            if file.read(5000) != content[at : at + 5000]:
                wrong.append(at)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert file.seek(0, 2) == len(content) == file.tell()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    server = ThreadedMotoServer(port=0)
    server.start()
    _, port = server.get_host_and_port()
    options = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    store, _ = pafs.FileSystem.from_uri(f"s3://ads/?{options}&allow_bucket_creation=true")
    store.create_dir("ads")
    yield f"s3://ads/the/lake?{options}"
    server.stop()


def test_a_bucket_is_a_lake_like_a_folder(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    every = decisions(30)
    made, lake = upload(tmp_path, {"decision": every}), Lake.open(bucket)
    assert not lake and lake.read("forgotten.json") is None and not lake.forgotten()
    (file,) = made.arrived("decision")
    lake.put(tmp_path / file.name, file.name)
    assert lake and lake.arrived("decision") == [file]
    assert found(lake) == list(every["user_id"])
    assert found(lake, BEGIN + HOUR, BEGIN + 2 * HOUR) == list(every["user_id"][6:12])
    server = bucket.partition("endpoint_override=")[2].partition("&")[0]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server}")  # the same variable as for raw logs
    assert Lake.open("s3://ads/the/lake").arrived("decision") == [file]
    lake.supersede([file], kept_seconds=0)
    assert not lake and not lake.superseded()


def test_a_compaction_between_two_listings_loses_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = upload(tmp_path, {"decision": decisions(2)})
    listed = Lake._list
    calls: list[str] = []

    def listed_then_compacted(self: Lake, folder: str) -> list[LakeFile]:
        found = listed(self, folder)
        calls.append(folder)
        if len(calls) == 1:
            compact(Lake.open(tmp_path), BEGIN + 3 * HOUR)
        return found

    monkeypatch.setattr(Lake, "_list", listed_then_compacted)
    assert found(lake) == ["u00", "u01"] and len(calls) > 2


def test_several_queries_of_a_fixed_lake_read_the_same_records(tmp_path: Path) -> None:
    lake = upload(tmp_path, {"decision": decisions(1)})
    fixed = lake.fixed()
    assert found(fixed) == ["u00"]
    upload(lake, {"decision": decisions(1, first=1)})
    compact(lake, BEGIN + 3 * HOUR)
    assert found(fixed) == ["u00"] and found(lake) == ["u00", "u01"]


def test_records_of_some_users(tmp_path: Path) -> None:
    lake = upload(tmp_path, {"decision": decisions(2)})
    upload(lake, {"decision": decisions(3)[::2]})  # a repeated decision and a new one
    assert found(lake) == ["u00", "u01", "u02"] and found(lake, where="user_id <> 'u01'") == ["u00", "u02"]


def test_temporary_files_are_not_in_the_current_folder(tmp_path: Path) -> None:
    with lake_database(Lake.open(tmp_path)) as db:
        ((folder, zone),) = db.execute(
            "SELECT current_setting('temp_directory'), current_setting('TimeZone')"
        ).fetchall()
    assert Path(folder).parent == Path(tempfile.gettempdir()) and zone == "UTC"


def test_a_damaged_note_of_superseded_files_is_ignored_and_removed(tmp_path: Path) -> None:
    lake = upload(tmp_path, {"decision": decisions(2)})
    compact(lake, BEGIN + 3 * HOUR)
    (note,) = (tmp_path / "superseded").iterdir()
    note.write_bytes(b"\xff{")
    (tmp_path / "superseded" / "notes.json").write_text("a person's")
    assert found(lake) == ["u00", "u01"] and lake.arrived("decision")
    assert compact(lake, BEGIN + 3 * HOUR).files == 1 and not lake.arrived("decision")
    lake.supersede([], 0)
    assert found(lake) == ["u00", "u01"] and not lake.superseded() and not note.exists()


def test_a_bucket_is_opened_without_asking_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """A router must start even if the object store is down."""
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(LogError, match=r"append \?region="):
        Lake.open("s3://ads/lake")
    for nonsense in ("", __file__, "ftp://ads/lake"):
        with raises(LogError, NO_LAKE, place=nonsense):
            Lake.open(nonsense)
    assert not Lake.open("s3://ads/lake?region=eu-central-1").place.endswith("region=eu-central-1")


@pytest.mark.parametrize("arrived", [True, False])
def test_a_file_that_no_router_wrote_is_named(tmp_path: Path, arrived: bool) -> None:
    lake = upload(tmp_path, {"decision": decisions(1)})
    (tmp_path / (name := name_of("decision", BEGIN, "half", arrived))).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"PAR1")
    with pytest.raises(LogError, match=re.escape(f"File '{name}' too small")):
        found(lake)
