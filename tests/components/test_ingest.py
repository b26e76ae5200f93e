"""Raw log to validated log: the simulator, a file, a file with faulty rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from kfp.dsl import Artifact, Dataset

from components.ingest import ingest
from mtorl.log.touchpoints import LogError
from mtorl.simulator.raw_log import write_raw_log
from mtorl.simulator.simulator import SimulatorConfig
from tests.components.artifacts import USERS, Output


def test_without_a_source_the_simulator_is_the_log(log: Artifact) -> None:
    rows = pd.read_parquet(Path(log.path) / "touchpoints.parquet")
    assert rows["user_id"].nunique() == USERS
    assert len(log.metadata["fingerprint"]) == 64


def test_a_file_of_the_simulators_log_is_the_same_log(log: Artifact, output: Output, tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv.gz"
    write_raw_log(raw, SimulatorConfig(users=USERS, seed=7))
    made = output(Dataset, "log")
    counted = ingest.python_func(str(raw), "simulator", str(tmp_path / "quarantine.csv"), "fail", 0, 7, made)
    assert counted == (len(pd.read_csv(raw)), USERS, 0)
    assert made.metadata["fingerprint"] == log.metadata["fingerprint"]


def test_faulty_rows_stop_the_step_or_are_set_aside(output: Output, tmp_path: Path) -> None:
    raw, quarantine = tmp_path / "raw.csv", tmp_path / "quarantine.csv"
    write_raw_log(raw, SimulatorConfig(users=20))
    rows = pd.read_csv(raw)
    rows.loc[3, "cost"] = -1.0
    rows.to_csv(raw, index=False)
    with pytest.raises(LogError, match="negative"):
        ingest.python_func(str(raw), "simulator", str(quarantine), "fail", 0, 7, output(Dataset, "log"))
    counted = ingest.python_func(str(raw), "simulator", str(quarantine), "quarantine", 0, 7, output(Dataset, "log"))
    assert counted == (len(rows) - 1, 20, 1)
    assert pd.read_csv(quarantine)["row"].tolist() == [4]
