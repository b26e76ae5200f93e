"""A lake while it is written, compacted and read."""

from __future__ import annotations

import re
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from features.collect.compact import compact
from mtorl.log.lake import Lake, LakeFile, lake_database, name_of
from mtorl.log.touchpoints import LogError
from tests.lakes import id_of, upload

AT = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
LATER = AT + timedelta(hours=2)


def decided(lake: Lake, *names: str, at: datetime = AT) -> None:
    rows = [{"decision_id": id_of(name, at), "user_id": name, "event_time": at.isoformat()} for name in names]
    upload(lake, {"decision": pd.DataFrame(rows)})


def users(lake: Lake, where: str = "true") -> list[str]:
    with lake_database(lake) as db:
        rows = db.execute(f"SELECT user_id FROM {lake.records(db, 'decision', where=where)} ORDER BY 1").fetchall()
    return [user for (user,) in rows]


def test_a_compaction_between_two_listings_takes_no_record_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.open(tmp_path)
    decided(lake, "a", "b")
    listed = Lake._list
    calls: list[str] = []

    def listed_then_compacted(self: Lake, folder: str) -> list[LakeFile]:
        found = listed(self, folder)
        calls.append(folder)
        if len(calls) == 1:
            compact(Lake.open(tmp_path), LATER)
        return found

    monkeypatch.setattr(Lake, "_list", listed_then_compacted)
    assert users(lake) == ["a", "b"] and len(calls) > 2


def test_several_queries_of_a_fixed_lake_read_the_same_records(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    decided(lake, "a")
    fixed = lake.fixed()
    assert users(fixed) == ["a"]
    decided(lake, "b")
    compact(lake, LATER)
    assert users(fixed) == ["a"] and users(lake) == ["a", "b"]


def test_records_of_some_users(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    decided(lake, "a", "b")
    decided(lake, "a", "c")  # a retry, and one more
    assert users(lake) == ["a", "b", "c"] and users(lake, "user_id <> 'b'") == ["a", "c"]


def test_what_does_not_fit_into_memory_is_not_written_to_the_current_folder(tmp_path: Path) -> None:
    """It may be read-only."""
    with lake_database(Lake.open(tmp_path)) as db:
        ((folder, zone),) = db.execute(
            "SELECT current_setting('temp_directory'), current_setting('TimeZone')"
        ).fetchall()
    assert Path(folder).parent == Path(tempfile.gettempdir()) and zone == "UTC"


def test_a_damaged_note_of_superseded_files_hides_nothing_and_goes(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    decided(lake, "a", "b")
    compact(lake, LATER)
    (note,) = (tmp_path / "superseded").iterdir()
    note.write_bytes(b"\xff{")
    (tmp_path / "superseded" / "notes.json").write_text("a person's")
    assert users(lake) == ["a", "b"] and lake.arrived("decision")
    assert compact(lake, LATER).files == 1 and not lake.arrived("decision")
    lake.supersede([], 0)
    assert users(lake) == ["a", "b"] and not lake.superseded() and not note.exists()


def test_a_bucket_is_opened_without_asking_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """A router starts while the store is away."""
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(LogError, match=r"append \?region="):
        Lake.open("s3://ads/lake")
    for nonsense in ("", __file__, "ftp://ads/lake"):
        with pytest.raises(LogError, match="no place of a lake"):
            Lake.open(nonsense)
    assert not Lake.open("s3://ads/lake?region=eu-central-1").place.endswith("region=eu-central-1")


@pytest.mark.parametrize("arrived", [True, False])
def test_a_file_that_no_router_wrote_is_named(tmp_path: Path, arrived: bool) -> None:
    lake = Lake.open(tmp_path)
    decided(lake, "a")
    (tmp_path / (name := name_of("decision", AT, "half", arrived))).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"PAR1")
    with pytest.raises(LogError, match=re.escape(f"File '{name}' too small")):
        users(lake)
