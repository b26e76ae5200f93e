"""Bad input at the command line: one clear message, exit code 2, nothing half-written."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

CLI = [sys.executable, "-m", "cli.main"]
pytestmark = pytest.mark.integration


@pytest.mark.long
def test_row_faults_stop_the_run_and_are_set_aside(log: pd.DataFrame, spec: Path, tmp_path: Path) -> None:
    """In a process of its own, as a shell runs it. All kinds of faults: tests/features/ingest/test_contract.py."""
    path, runs = tmp_path / "faulty.csv", tmp_path / "runs"
    log = log.assign(cost=log["cost"].where(log.index != 3, -2.0))
    pd.concat([log, log.head(2)]).to_csv(path, index=False)
    answer = subprocess.run(
        [*CLI, "run", "--data", path, "--dataset", spec, "--root", runs], capture_output=True, text=True
    )
    assert answer.returncode == 2 and "Traceback" not in answer.stderr, answer.stderr
    (left,) = [file for file in runs.rglob("*") if file.is_file()]
    assert left.name == "quarantine.csv" and str(left) in answer.stderr
    assert len(pd.read_csv(left)) == 3, "each row once, and no other"
