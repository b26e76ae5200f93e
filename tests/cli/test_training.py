"""Tests of `mtorl train`, `evaluate`, `search` and `benchmark paper`."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.repository import ROOT
from tests.waiting import eventually

pytestmark = pytest.mark.long


def mtorl(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", *arguments]
    environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert answer.returncode == 0, answer.stderr
    assert "Traceback" not in answer.stderr
    return answer


def refused(*arguments: str) -> str:
    """Run a command that must exit with code 2 in this process; returns its error message."""
    answer = CliRunner().invoke(app, list(arguments))
    assert answer.exit_code == 2 and isinstance(answer.exception, SystemExit), (answer.output, answer.exception)
    return answer.stderr


@pytest.fixture(scope="module")
def windows(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    from mtorl.log.dataset import DatasetSpec
    from mtorl.log.touchpoints import write_log
    from mtorl.simulator.simulator import Simulator, SimulatorConfig

    spec = DatasetSpec.load("simulator")
    write_log(Simulator(SimulatorConfig(users=300, seed=4)).log(), folder / "log.parquet", spec)
    mtorl("data", "build", str(folder / "log.parquet"), "--dataset", "simulator", "--out", str(folder / "data"))
    return next(folder.glob("data/**/manifest.json")).parent


@pytest.fixture(scope="module")
def trained(windows, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    checkpoint = folder / "checkpoint.pt"
    arguments = ["--epochs", "2", "--checkpoint", str(checkpoint), "--log", str(folder / "log")]
    answer = mtorl("train", str(windows), str(folder / "model"), *arguments)
    assert "reward AUC" in answer.stdout and not checkpoint.exists()
    return folder


def test_a_model_is_trained_and_evaluated_on_unseen_users(trained, tmp_path):
    out = trained / "model"
    assert len(list((trained / "log").glob("member-*/events.out.tfevents.*"))) == 2
    assert (out / "yardstick.json.gz").exists()

    figures = tmp_path / "figures.json"
    answer = mtorl("evaluate", str(out), "--users", "250", "--seed", "99", "--only-new", "--json", str(figures))
    for words in ("model less lightgbm", "model: decision rule", "the future in the decision rule: o", "reward auc"):
        assert words in answer.stdout
    assert json.loads(figures.read_text())["compared"]["yardstick"] == "lightgbm"
    assert "--only-new" in refused("evaluate", str(out), "--users", "250", "--seed", "99")


def test_training_accepts_the_settings_of_a_search(windows, trained, tmp_path):
    best, figures = tmp_path / "best", tmp_path / "search.json"
    arguments = ["search", str(windows), str(best), "--epochs", "1", "--trials"]
    answer = mtorl(*arguments, "2", "--json", str(figures))
    assert "│ default │" in answer.stdout and f"settings: {best / 'settings.yaml'}" in answer.stdout
    found = json.loads(figures.read_text())
    assert len(found["trials"]) == 2 and found["best"]["loss"] <= found["default_loss"]
    went_on = mtorl(*arguments, "3")
    assert "3 trials" in went_on.stdout

    other = tmp_path / "other.yaml"
    other.write_text("hidden: 32\nbatch_size: 64\n")
    mtorl("train", str(windows), str(tmp_path / "other"), "--epochs", "1", "--settings", str(other))
    widths = {
        folder.name: sum(path.stat().st_size for path in folder.glob("*.onnx"))
        for folder in (trained / "model", tmp_path / "other")
    }
    assert 0 < widths["other"] < 0.6 * widths["model"], "the search chose a narrower network"
    other.write_text("hidden: 30\n")
    assert "hidden" in refused("train", str(windows), str(tmp_path / "no"), "--settings", str(other))
    assert "epochs" in refused("search", str(windows), str(best), "--epochs", "2")


def test_unusable_input_gives_one_line(windows, tmp_path):
    assert "no manifest.json" in refused("train", str(tmp_path), str(tmp_path / "out"))
    assert "missing; is" in refused("evaluate", str(tmp_path))
    assert "'magic'" in refused("benchmark", "paper", "--methods", "magic")
    assert "nowhere.csv" in refused("benchmark", "paper", "--criteo", "nowhere.csv", "--root", str(tmp_path / "paper"))
    (tmp_path / "checkpoint.member-0").write_bytes(b"rubbish")
    broken = refused("train", str(windows), str(tmp_path / "out"), "--checkpoint", str(tmp_path / "checkpoint"))
    assert "checkpoint.member-0" in broken


def test_a_stopped_comparison_resumes(tmp_path):
    root, out = tmp_path / "paper", tmp_path / "out"
    # Write this score in advance: training the paper's own network takes too long.
    authors = root / "scores" / "simulator" / "authors-0.json"
    authors.parent.mkdir(parents=True)
    authors.write_text("{}")
    arguments = ["benchmark", "paper", "--users", "60", "--repeats", "1", "--methods", "markov"]
    arguments += ["--root", str(root), "--out", str(out), "--workers", "1"]
    command = [sys.executable, "-m", "cli.main", *arguments]
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    eventually(lambda: first.poll() is not None or list(root.glob("answers/simulator/user-0/*.npz")), 600)
    workers = psutil.Process(first.pid).children()
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate()
    assert first.returncode == 130 and str(root) in errors
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert workers and all(worker.status() == psutil.STATUS_ZOMBIE for worker in alive)
    done = {path: path.stat().st_mtime_ns for path in root.glob("answers/**/*.npz")}
    assert done and not list(root.glob("scores/simulator/user-0.json"))
    mtorl(*arguments)
    assert all(path.stat().st_mtime_ns == at for path, at in done.items())
    assert "| **MTORL** |" in (out / "results.md").read_text()
    assert set(json.loads((out / "results.json").read_text())["results"]) == {"simulator"}
    assert authors.read_text() == "{}"
    assert "users" in refused(*arguments[:2], "--users", "61", *arguments[4:])
