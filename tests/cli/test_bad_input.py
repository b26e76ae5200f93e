"""Bad input at the command line: one clear message, exit code 2, nothing half-written."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from cli.main import app
from mtorl.simulator.simulator import Simulator, SimulatorConfig
from tests.pipelines.forked_steps import forked_steps

CLI = [sys.executable, "-m", "cli.main"]
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def log() -> pd.DataFrame:
    return Simulator(SimulatorConfig(users=40, seed=1)).log()


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """The simulator's columns, read from a file in the canonical layout."""
    from mtorl.log.dataset import DatasetSpec

    content = DatasetSpec.load("simulator").to_dict() | {"adapter": "touchpoints"}
    path = tmp_path / "touchpoints.yaml"
    DatasetSpec.from_dict(content).save(path)
    return path


def run(data: Path, dataset: str | Path, root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    arguments = [*CLI, "run", "--data", str(data), "--dataset", str(dataset), "--root", str(root), *more]
    return subprocess.run(arguments, capture_output=True, text=True)


def refused(data: Path, dataset: str | Path, root: Path, *more: str) -> str:
    """What the command says when it ends with 2, in this process, which spares the imports."""
    answer = CliRunner().invoke(
        app, ["run", "--data", str(data), "--dataset", str(dataset), "--root", str(root), *more]
    )
    assert answer.exit_code == 2 and isinstance(answer.exception, SystemExit), (answer.output, answer.exception)
    return answer.stderr


def set_value(column: str, row: int, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(log: pd.DataFrame) -> pd.DataFrame:
        log = log.astype({column: object})
        log.loc[row, column] = value
        return log

    return change


FAULTS: list[tuple[Callable[[pd.DataFrame], pd.DataFrame], list[str]]] = [
    (set_value("timestamp", 5, "yesterday"), ["timestamp", "1 row", "yesterday"]),
    (set_value("channel", 7, "carrier-pigeon"), ["channel", "1 row", "carrier-pigeon"]),
    (set_value("cost", 3, -2.0), ["cost", "1 row", "-2.0"]),
    (lambda log: pd.concat([log, log.head(2)]), ["repeating", "2 rows"]),
    (lambda log: pd.concat([log, log.head(1).assign(user_id="lonely")]), ["user_id", "1 row", "lonely"]),
]


@pytest.mark.long
def test_row_faults_stop_the_run_and_are_set_aside(log: pd.DataFrame, spec: Path, tmp_path: Path) -> None:
    """Of every kind, in one file: each has a line of its own."""
    path = tmp_path / "faulty.csv"
    for change, _ in FAULTS:
        log = change(log)
    log.to_csv(path, index=False)
    answer = run(path, spec, tmp_path / "runs")
    assert answer.returncode == 2, answer.stderr
    assert "Traceback" not in answer.stderr
    lines = [line for line in answer.stderr.splitlines() if "faulty.csv: column" in line]
    assert len(lines) == len(FAULTS), answer.stderr
    for _, words in FAULTS:
        assert [line for line in lines if all(word in line for word in words)], (words, answer.stderr)
    left = [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]
    assert [file.name for file in left] == ["quarantine.csv"], left
    assert str(left[0]) in answer.stderr
    assert len(pd.read_csv(left[0])) == 6, "each row once, and no other"


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
