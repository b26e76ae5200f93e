"""Bad input at the command line: one clear message, exit code 2, nothing half-written."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from mtorl.simulator.simulator import Simulator, SimulatorConfig

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


def set_value(column: str, row: int, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(log: pd.DataFrame) -> pd.DataFrame:
        log = log.astype({column: object})
        log.loc[row, column] = value
        return log

    return change


FAULTS: list[tuple[str, Callable[[pd.DataFrame], pd.DataFrame], list[str]]] = [
    ("timestamp", set_value("timestamp", 5, "yesterday"), ["timestamp", "1 row", "yesterday"]),
    ("channel", set_value("channel", 7, "carrier-pigeon"), ["channel", "1 row", "carrier-pigeon"]),
    ("cost", set_value("cost", 3, -2.0), ["cost", "1 row", "-2.0"]),
    ("duplicate", lambda log: pd.concat([log, log.head(2)]), ["repeating", "2 rows"]),
    (
        "one touchpoint",
        lambda log: pd.concat([log, log.head(1).assign(user_id="lonely")]),
        ["user_id", "1 row", "lonely"],
    ),
]


@pytest.mark.parametrize(("name", "change", "words"), FAULTS, ids=[name for name, *_ in FAULTS])
def test_row_faults_stop_the_run_and_are_set_aside(
    name: str,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    words: list[str],
    log: pd.DataFrame,
    spec: Path,
    tmp_path: Path,
) -> None:
    path = tmp_path / "faulty.csv"
    change(log).to_csv(path, index=False)
    answer = run(path, spec, tmp_path / "runs")
    assert answer.returncode == 2, answer.stderr
    assert "Traceback" not in answer.stderr
    for word in ["faulty.csv", *words]:
        assert word in answer.stderr, answer.stderr
    left = [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]
    assert [file.name for file in left] == ["quarantine.csv"], left
    assert str(left[0]) in answer.stderr


def test_an_unusable_file_leaves_nothing(log: pd.DataFrame, spec: Path, tmp_path: Path) -> None:
    empty, rubbish, wrong = tmp_path / "empty.csv", tmp_path / "rubbish.csv.gz", tmp_path / "wrong.csv"
    empty.write_text("")
    rubbish.write_bytes(gzip.compress(b"\x00\xff\x00rubbish" * 100))
    log.rename(columns={"channel": "chanel"}).to_csv(wrong, index=False)
    for path, words in (
        (tmp_path / "missing.csv", ["missing.csv"]),
        (empty, ["empty.csv"]),
        (rubbish, ["rubbish.csv.gz"]),
        (wrong, ["wrong.csv", "channel"]),
    ):
        answer = run(path, spec, tmp_path / "runs")
        assert answer.returncode == 2, answer.stderr
        assert "Traceback" not in answer.stderr
        for word in words:
            assert word in answer.stderr, answer.stderr
    assert not [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]


def test_an_unknown_dataset_names_the_known_ones(tmp_path: Path) -> None:
    answer = run(tmp_path / "any.csv", "no-such-dataset", tmp_path / "runs")
    assert answer.returncode == 2
    assert "kuairand-sequence" in answer.stderr


@pytest.mark.parametrize(("option", "value"), [("--bad-rows", "maybe"), ("--epochs", "0"), ("--rounds", "0")])
def test_a_wrong_option_is_named(option: str, value: str, tmp_path: Path) -> None:
    answer = run(tmp_path / "any.csv", "simulator", tmp_path / "runs", option, value)
    assert answer.returncode == 2
    assert option.strip("-") in answer.stderr
