"""Tests of the first step of every run, which writes a validated log and its description."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from features import messages
from features.ingest.log_folder import RawLog, content_of, ingest
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import LogError, fingerprint, write_log
from mtorl.runtime.message import Words
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from tests.messages import raises


def test_a_sample_keeps_whole_users(tmp_path: Path) -> None:
    spec = DatasetSpec.load("simulator")
    whole = Simulator(SimulatorConfig(users=20, seed=3)).log()
    write_log(whole, tmp_path / "log.parquet", spec)
    folder, quarantine = tmp_path / "folder", tmp_path / "quarantine.csv"

    def sample(users: int, seed: int) -> pd.DataFrame:
        report = ingest(RawLog(str(tmp_path / "log.parquet"), users=users, seed=seed), folder, quarantine)
        log = pd.read_parquet(folder / "touchpoints.parquet")
        assert (report.rows, report.users) == (len(log), log["user_id"].nunique())
        assert report.fingerprint == fingerprint(log) == json.loads((folder / "ingest.json").read_text())["fingerprint"]
        assert DatasetSpec.load(folder / "dataset.yaml") == spec
        return log

    log = sample(users=5, seed=1)
    assert log["user_id"].nunique() == 5
    assert log.equals(log.sort_values(["user_id", "timestamp"], ignore_index=True))
    chosen = whole[whole["user_id"].isin(log["user_id"])]
    assert log.groupby("user_id").size().equals(chosen.groupby("user_id").size())
    assert set(sample(users=5, seed=2)["user_id"]) != set(log["user_id"])
    assert sample(users=0, seed=1)["user_id"].nunique() == whole["user_id"].nunique()
    assert ingest(RawLog(users=30, seed=1), folder, quarantine).users == 30, "the simulator simulates 30 users"


@pytest.mark.parametrize(("path", "words"), [("", messages.SIMULATED_ONLY), ("none.csv", messages.NO_FILE)])
def test_an_error_leaves_no_folder(tmp_path: Path, path: str, words: Words) -> None:
    raw = RawLog(str(tmp_path / path) if path else "", "criteo-sequence")
    with raises(LogError, words):
        ingest(raw, tmp_path / "folder", tmp_path / "quarantine.csv")
    assert not (tmp_path / "folder").exists()


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    folder = tmp_path / "log.parquet"
    (folder / "day=1").mkdir(parents=True)
    for number in range(2):
        pd.DataFrame({"user_id": ["a", "b"], "cost": [0.1, number]}).to_parquet(folder / f"day=1/{number}.parquet")
    return folder


def of(path: Path, dataset: str | Path = "simulator") -> str:
    return content_of(RawLog(str(path), str(dataset)))


def test_the_content_of_a_file_is_independent_of_its_path(tmp_path: Path) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    for path in (first, second):
        path.write_text("user_id,cost\na,1\n")
    os.utime(second, (0, 0))
    assert of(first) == of(second)
    second.write_text("user_id,cost\na,2\n")  # same size, other content
    assert of(first) != of(second)


def test_every_part_of_a_folder_counts_and_unfinished_ones_do_not(parts: Path) -> None:
    before = of(parts)
    (parts / ".2.parquet").write_bytes(b"half")
    (parts / "_temporary").mkdir()
    (parts / "_temporary" / "3.parquet").write_bytes(b"half")
    assert of(parts) == before
    pd.DataFrame({"user_id": ["a", "b"], "cost": [0.1, 7.0]}).to_parquet(parts / "day=1/1.parquet")
    changed = of(parts)
    (parts / "day=1/0.parquet").rename(parts / "day=1/4.parquet")
    renamed = of(parts)
    (parts / "day=1/4.parquet").unlink()
    assert len({before, changed, renamed, of(parts)}) == 4


def test_the_description_counts_but_not_its_comments(parts: Path, tmp_path: Path) -> None:
    description = tmp_path / "mine.yaml"
    DatasetSpec.load("simulator").save(description)
    before = of(parts, description)
    description.write_text(description.read_text() + "# a comment\n")
    assert of(parts, description) == before
    DatasetSpec.load("simulator").replace(window=5).save(description)
    assert of(parts, description) != before


def test_files_of_own_feature_views_count(parts: Path, tmp_path: Path) -> None:
    source = tmp_path / "scores.parquet"
    source.write_bytes(b"of yesterday")
    fields = [{"name": "score", "kind": "numeric"}]
    view = {"view": "scores", "source": "scores.parquet", "key": "user_id", "fields": fields}
    description = tmp_path / "mine.yaml"
    DatasetSpec.from_dict({**DatasetSpec.load("simulator").to_dict(), "features": [view]}).save(description)
    before = of(parts, description)
    source.write_bytes(b"of today....")
    assert of(parts, description) != before
