"""Tests of the whole loop with few users and all real components."""

import itertools
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import psutil
import pytest

from monitoring.decision_log import DecisionLog
from mtorl.artifact.artifact import load
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.messages import LAST_STAGE
from tests.repository import ROOT
from tests.waiting import eventually

pytestmark = pytest.mark.long
check = runpy.run_path(str(ROOT / "tests" / "check_summary.py"))["check"]


def mtorl(*arguments: str, root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", "run", "--root", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("loop")
    command = [sys.executable, "-m", "cli.main", "run", "--root", str(root), "--users", "800", "--epochs", "2"]
    running = subprocess.Popen([*command, "--rounds", "3"], stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    asked = "*/serving/spool/*.jsonl"
    eventually(lambda: running.poll() is not None or any(file.stat().st_size for file in root.glob(asked)), 1000)
    assert running.poll() is None, running.stderr.read()
    running.kill()
    running.wait()
    return (root / "latest").resolve()


@pytest.fixture(scope="module")
def trained(interrupted: Path) -> str:
    with served(interrupted):
        pass
    return load(interrupted / "artifacts" / "challenger").digest


@pytest.fixture(scope="module")
def finished(interrupted: Path, trained: str) -> Path:
    answer = mtorl("--resume", "--rounds", "3", root=interrupted.parent)
    assert answer.returncode == 0, answer.stderr + answer.stdout
    assert "report:" in answer.stdout and "train MTORL" not in answer.stderr
    return interrupted.parent / "latest"


def test_a_run_killed_after_its_gate_is_served_and_finished_without_retraining(
    interrupted: Path, trained: str, finished: Path
) -> None:
    assert finished.resolve() == interrupted
    assert load(finished / "artifacts" / "challenger").digest == trained
    steps = json.loads((finished / "summary.json").read_text())["steps"]
    assert steps["train-challenger"]["seconds"] > 0, "the time before the interruption counts"
    assert (next(finished.glob("interrupted-*")) / "serving" / "ledger.sqlite").exists(), "interrupted files stay"


def test_the_summary_is_complete_and_no_process_is_left(finished: Path) -> None:
    assert check(finished / "summary.json") == []
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["dataset"] == "simulator" and summary["windows"] == summary["rows"]
    assert isinstance(summary["experiment"]["true_lift"], float)
    run = str(finished.resolve())
    processes = psutil.process_iter(["cmdline", "pid"])
    commands = {one.info["pid"]: " ".join(one.info["cmdline"] or ()) for one in processes}
    assert not [command for pid, command in commands.items() if pid != os.getpid() and run in command]


def test_the_experiment_went_through_its_stages(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert [move["to"] for move in summary["stages"]["moves"]] == ["shadow", "5%", "50%"]
    assert summary["experiment"]["verdict"] == "inconclusive", "so few users can't give a verdict"
    assert summary["stages"]["waits"] == [LAST_STAGE(verdict=summary["experiment"]["reason"])]
    users_of_stages = summary["experiment"]["users_of_stages"]
    assert {stage: sum(arms.values()) for stage, arms in users_of_stages.items()} == {"5%": 156, "50%": 156}
    with DecisionLog.of(finished / "lake").opened("shadow") as db:
        decisions = db.execute(
            "select stage, count(*) from decision_log where request_id like 'live-%' group by stage"
        ).fetchall()
        assert dict(decisions) == {"shadow": 156, "5%": 156, "50%": 3 * 156}
        assert db.execute("select count(*) from shadow_log").fetchone() == (156,)
    stands = subprocess.run(
        [sys.executable, "-m", "cli.main", "experiment", "status", str(finished / "serving.yaml"), "--json"],
        capture_output=True,
        text=True,
    )
    assert stands.returncode == 0 and json.loads(stands.stdout)["phase"] == "50%"


def test_the_ledger_equals_the_log_and_every_arm_spends(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    with DecisionLog.of(finished / "lake").opened("outcome") as db:
        spent = dict(
            db.execute(
                "select arm, sum(value) from outcome_log join decision_log using (decision_id) "
                "where kind = 'cost' group by arm"
            ).fetchall()
        )
    prices = Experiment.load(finished / "serving" / "experiment.yaml").budgets[0].pacing
    assert prices is not None and prices.opportunities == summary["serving"]["decisions"]
    for arm, budget in summary["budget"].items():
        assert budget["spent"] + budget["excess"] == pytest.approx(spent[arm], abs=1e-6)


def test_the_pages_on_requesting_decisions_are_correct(finished: Path, tmp_path: Path) -> None:
    """Run the commands of docs/serving-by-hand.md and docs/api.md against `mtorl serve`."""
    with served(finished) as router:
        first, second, outcome, mistake = _answers(ROOT / "docs" / "serving-by-hand.md", router, tmp_path)
        decision = json.loads(first)["predictions"][0]
        assert decision["fallback_reason"] is None and decision["request_id"] == "by-hand-1"
        tensors = {tensor["name"]: tensor["data"][0] for tensor in json.loads(second)["outputs"]}
        assert tensors["arm"] == decision["arm"] and tensors["fallback_reason"] == ""
        assert json.loads(outcome) == {"accepted": 2}
        assert mistake.strip() == """{"error":"instances[0].context: missing field 'device'"} 400"""
        columns, outcome = _answers(ROOT / "docs" / "api.md", router, tmp_path)
        assert columns.strip() == "hour device placement"
        assert json.loads(outcome) == {"accepted": 1}


def test_a_person_may_promote_after_the_run(finished: Path) -> None:
    file = finished / "serving.yaml"
    promote = [sys.executable, "-m", "cli.main", "experiment", "move", str(file), "promoted"]
    assert subprocess.run(promote, capture_output=True).returncode == 0
    challenger = Experiment.load(file).arm("challenger").model_digest
    with served(finished) as router:  # as on a later day
        context = {"hour": 20, "device": "mobile", "placement": "feed"}
        asked = [{"user_id": f"u{n:06}", "campaign_id": "spring-sale", "context": context} for n in range(20)]
        body = json.dumps({"instances": asked}).encode()
        request = Request(f"{router}/v1/models/ads:predict", body, {"content-type": "application/json"})
        with urlopen(request, timeout=60) as answer:
            decisions = json.load(answer)["predictions"]
    assert {decision["arm"] for decision in decisions} == {"incumbent"}
    assert {decision["model"]["digest"] for decision in decisions} == {challenger}


@contextmanager
def served(run: Path) -> Iterator[str]:
    serve = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "serve", "--run", str(run), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert serve.stdout is not None
        lines = (line for line in serve.stdout if not line.startswith("promotion: "))
        said = list(itertools.islice(lines, 3))
        assert said[1].startswith("router ") and said[2].startswith("ready"), said
        yield said[1].split()[1]
    finally:
        serve.terminate()
        assert serve.wait() == 0


def _answers(page: Path, router: str, folder: Path) -> list[str]:
    script = "\nprintf '\\n--\\n'\n".join(re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL))
    environment = {**os.environ, "ROUTER": router}
    ended = subprocess.run(["bash", "-euc", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split("\n--\n")
