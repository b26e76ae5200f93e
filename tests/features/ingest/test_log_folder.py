"""The folder that every run starts from: a validated log with its description."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from features.ingest.log_folder import RawLog, ingest
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import LogError, fingerprint, write_log
from mtorl.simulator.simulator import Simulator, SimulatorConfig


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


def test_the_simulator_makes_its_own_log(tmp_path: Path) -> None:
    report = ingest(RawLog(users=30, seed=1), tmp_path / "folder", tmp_path / "quarantine.csv")
    log = pd.read_parquet(tmp_path / "folder" / "touchpoints.parquet")
    assert (report.rows, report.users) == (len(log), 30)


@pytest.mark.parametrize(("path", "message"), [("", "needs a log: give its path"), ("none.csv", "no such file")])
def test_an_error_leaves_no_folder(tmp_path: Path, path: str, message: str) -> None:
    raw = RawLog(str(tmp_path / path) if path else "", "criteo-sequence")
    with pytest.raises(LogError, match=message):
        ingest(raw, tmp_path / "folder", tmp_path / "quarantine.csv")
    assert not (tmp_path / "folder").exists()
