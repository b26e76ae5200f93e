"""The whole loop, small: every room for real, and what the summary must hold."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mtorl.experiment.experiment import Experiment
from tests.repository import ROOT

pytestmark = pytest.mark.integration
check = runpy.run_path(str(ROOT / "tests" / "check_summary.py"))["check"]


def mtorl(*arguments: str, root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", "run", "--root", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("loop")
    answer = mtorl("--users", "800", "--epochs", "2", "--rounds", "3", root=root)
    assert answer.returncode == 0, answer.stderr + answer.stdout
    assert "report:" in answer.stdout
    return root / "latest"


def test_the_summary_holds(finished: Path) -> None:
    assert check(finished / "summary.json") == []
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["dataset"] == "simulator" and summary["windows"] == summary["rows"]
    assert isinstance(summary["experiment"]["true_lift"], float)


def test_every_decision_is_on_record_with_its_propensity(finished: Path) -> None:
    import duckdb

    summary = json.loads((finished / "summary.json").read_text())
    log = f"{finished.resolve()}/decision_log"
    rows = duckdb.execute(
        f"select count(*), count(distinct decision_id), min(propensity), max(propensity) from '{log}/decisions.parquet'"
    ).fetchone()
    # the live traffic and the shifted burst
    assert rows is not None and rows[0] == rows[1] >= summary["serving"]["decisions"]
    assert 0 < rows[2] <= rows[3] <= 1
    dangling = duckdb.execute(
        f"select count(*) from '{log}/outcomes.parquet' o anti join '{log}/decisions.parquet' d using (decision_id)"
    ).fetchone()
    assert dangling == (0,)


def test_the_ledger_equals_the_log(finished: Path) -> None:
    import duckdb

    summary = json.loads((finished / "summary.json").read_text())
    log = f"{finished.resolve()}/decision_log"
    spent = dict(
        duckdb.execute(
            f"select arm, sum(value) from '{log}/outcomes.parquet' join '{log}/decisions.parquet' using (decision_id) "
            "where kind = 'cost' group by arm"
        ).fetchall()
    )
    for arm, budget in summary["budget"].items():
        assert budget["spent"] + budget["excess"] == pytest.approx(spent[arm], abs=1e-6)


def test_every_arm_is_paced_and_its_money_is_spent(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    prices = Experiment.load(finished / "serving" / "experiment.yaml").budgets[0].pacing
    assert prices is not None and prices.opportunities == summary["serving"]["decisions"]
    for arm, budget in summary["budget"].items():
        assert 0.9 < budget["spent_share"] <= 1
        assert budget["spent_share"] == pytest.approx(budget["spent"] / budget["limit"])
        figures = summary["experiment"]["arms"][arm]
        assert figures["gain_per_cost"] == pytest.approx(figures["gain"] / figures["cost"], rel=1e-6)


def test_no_process_is_left(finished: Path) -> None:
    run = str(finished.resolve())
    left = [
        process.info["cmdline"]
        for process in psutil.process_iter(["cmdline", "pid"])
        if process.info["pid"] != os.getpid() and run in " ".join(process.info["cmdline"] or ())
    ]
    assert left == []


def test_the_pages_on_asking_for_decisions_are_true(finished: Path, tmp_path: Path) -> None:
    """Runs every command of docs/serving-by-hand.md and docs/api.md against `mtorl serve` of the finished run."""
    serve = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "serve", "--run", str(finished), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert serve.stdout is not None
        said = [serve.stdout.readline() for _ in range(3)]
        assert said[1].startswith("router ") and said[2].startswith("ready"), said
        router = said[1].split()[1]
        first, second, outcome, mistake = _answers(ROOT / "docs" / "serving-by-hand.md", router, tmp_path)
        decision = json.loads(first)["predictions"][0]
        assert decision["fallback_reason"] is None and decision["request_id"] == "by-hand-1"
        tensors = {tensor["name"]: tensor["data"][0] for tensor in json.loads(second)["outputs"]}
        assert tensors["arm"] == decision["arm"] and tensors["fallback_reason"] == ""
        assert json.loads(outcome) == {"accepted": 2, "duplicate": 0, "dangling": 0}
        assert mistake.strip() == '{"error":"instances[0].context: missing device, placement"} 400'
        columns, outcome = _answers(ROOT / "docs" / "api.md", router, tmp_path)
        assert columns.strip() == "hour device placement"
        assert json.loads(outcome) == {"accepted": 1, "duplicate": 0, "dangling": 0}
    finally:
        serve.terminate()
        assert serve.wait() == 0


def _answers(page: Path, router: str, folder: Path) -> list[str]:
    """What the commands of a page print, one after the other."""
    script = "\nprintf '\\n--\\n'\n".join(re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL))
    environment = {**os.environ, "ROUTER": router}
    ended = subprocess.run(["bash", "-euc", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split("\n--\n")
