"""Bad input at the command line: one clear message, exit code 2, nothing half-written."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.pipelines.forked_steps import forked_steps

CLI = [sys.executable, "-m", "cli.main"]
pytestmark = pytest.mark.integration


def refused(data: Path, dataset: str | Path, root: Path) -> str:
    """What the command says when it ends with 2, in this process, which spares the imports."""
    answer = CliRunner().invoke(app, ["run", "--data", str(data), "--dataset", str(dataset), "--root", str(root)])
    assert answer.exit_code == 2 and isinstance(answer.exception, SystemExit), (answer.output, answer.exception)
    return answer.stderr


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


def test_an_unusable_file_leaves_nothing(log: pd.DataFrame, spec: Path, tmp_path: Path) -> None:
    empty, rubbish, wrong = tmp_path / "empty.csv", tmp_path / "rubbish.csv.gz", tmp_path / "wrong.csv"
    empty.write_text("")
    rubbish.write_bytes(gzip.compress(b"\x00\xff\x00rubbish" * 100))
    log.rename(columns={"channel": "chanel"}).to_csv(wrong, index=False)
    with forked_steps():
        for path, words in (
            (tmp_path / "missing.csv", ["missing.csv"]),
            (empty, ["empty.csv"]),
            (rubbish, ["rubbish.csv.gz"]),
            (wrong, ["wrong.csv", "channel"]),
        ):
            answer = refused(path, spec, tmp_path / "runs")
            for word in words:
                assert word in answer, answer
    assert not [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]
