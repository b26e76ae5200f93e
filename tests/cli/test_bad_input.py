import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

CLI = [sys.executable, "-m", "cli.main"]
pytestmark = pytest.mark.integration


@pytest.mark.long
def test_faulty_rows_stop_the_run_and_are_quarantined(log: pd.DataFrame, spec: Path, tmp_path: Path) -> None:
    path, runs = tmp_path / "faulty.csv", tmp_path / "runs"
    log = log.assign(cost=log["cost"].where(log.index != 3, -2.0))
    pd.concat([log, log.head(2)]).to_csv(path, index=False)
    answer = subprocess.run(
        [*CLI, "run", "--data", path, "--dataset", spec, "--root", runs], capture_output=True, text=True
    )
    assert answer.returncode == 2 and "Traceback" not in answer.stderr, answer.stderr
    (left,) = [file for file in runs.rglob("*") if file.is_file()]
    assert left.name == "quarantine.csv" and str(left) in answer.stderr
    assert len(pd.read_csv(left)) == 3, "each faulty row once, no others"


def test_a_verdict_needs_no_packages_that_the_image_of_routers_lacks(tmp_path: Path) -> None:
    code = "import sys; sys.modules['ibis'] = None; from cli.main import app; app()"
    command = [sys.executable, "-c", code, "experiment", "verdict", tmp_path / "none.yaml"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 2 and "no decision log yet" in answer.stderr, answer.stderr
