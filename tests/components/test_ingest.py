"""Raw log to validated log: the simulator, a file, a file with faulty rows, a file that changes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from kfp.dsl import Artifact, Dataset

from components.fingerprint.component import fingerprint
from components.ingest.component import ingest
from mtorl.simulator.raw_log import write_raw_log
from mtorl.simulator.simulator import SimulatorConfig
from tests.components.artifacts import CODE, USERS, Output


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    raw = tmp_path / "raw.csv"
    write_raw_log(raw, SimulatorConfig(users=20))
    rows = pd.read_csv(raw)
    rows.loc[3, "cost"] = -1.0
    rows.to_csv(raw, index=False)
    return raw


def read(raw: Path, bad_rows: str, log: Artifact, quarantine: Artifact, content: str = "") -> tuple[int, int, int]:
    content = content or fingerprint.python_func(str(raw), "simulator")
    return ingest.python_func(str(raw), "simulator", bad_rows, 0, 7, content, "", "", 0, CODE, log, quarantine)


def test_the_simulators_log_is_made_where_somebody_says_so(log: Artifact) -> None:
    rows = pd.read_parquet(Path(log.path) / "touchpoints.parquet")
    assert rows["user_id"].nunique() == USERS
    assert len(log.metadata["fingerprint"]) == 64


def test_nothing_is_simulated_by_default(output: Output) -> None:
    with pytest.raises(SystemExit, match="source: give the path of the touchpoint log, or 'simulator'"):
        ingest.python_func(
            "", "simulator", "fail", 0, 7, "", "", "", 0, CODE, output(Dataset, "log"), output(Artifact, "q")
        )


def test_a_file_of_the_simulators_log_is_the_same_log(log: Artifact, output: Output, tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv.gz"
    write_raw_log(raw, SimulatorConfig(users=USERS, seed=7))
    made, quarantine = output(Dataset, "log"), output(Artifact, "quarantine")
    assert read(raw, "fail", made, quarantine) == (len(pd.read_csv(raw)), USERS, 0)
    assert made.metadata["fingerprint"] == log.metadata["fingerprint"]
    assert Path(quarantine.path).read_text() == ""


def test_faulty_rows_stop_the_step_in_a_line_that_names_the_parameter(faulty: Path, output: Output) -> None:
    with pytest.raises(SystemExit) as stopped:
        read(faulty, "fail", output(Dataset, "log"), output(Artifact, "quarantine"))
    lines = str(stopped.value).splitlines()
    assert "negative" in lines[1]
    assert lines[-1].endswith("set the pipeline's parameter bad_rows to quarantine")


def test_a_log_that_changes_while_it_is_read_stops_the_step(faulty: Path, output: Output) -> None:
    with pytest.raises(SystemExit, match="changed while it was read"):
        read(faulty, "quarantine", output(Dataset, "log"), output(Artifact, "quarantine"), content="of before")
