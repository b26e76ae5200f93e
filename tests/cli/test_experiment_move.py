import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.run import served_file
from monitoring.experiments.document import ArmTraffic, Traffic
from monitoring.experiments.findings import Findings
from monitoring.messages import LOG_UNKNOWN, NOT_IN_LOG
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.messages import NO_RAMP, NOT_BEGUN, NOT_SWITCHED_OFF, OVER, UNDECIDED
from mtorl.experiment.stage_machine import Evidence
from tests.cli.test_experiment import mtorl
from tests.features.collect.decision_logs import SPEC, decision, write
from tests.features.collect.test_shadows import shadow
from tests.mtorl.experiment.experiments import FILE
from tests.repository import ROOT
from tests.waiting import eventually


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "first-day.yaml"
    stages = [{"stage": stage, "hours": 0, "users": users} for stage, users in (("shadow", 5), ("5%", 10), ("50%", 10))]
    metrics = {"primary": "gain_per_decision", "outcome_hours": None}
    path.write_text(yaml.safe_dump({**FILE, "metrics": metrics, "ramp": {"stages": stages}}))
    return path


def serving(file: Path) -> Experiment:
    return Experiment.load(file.with_suffix("") / "experiment.yaml")


def before_start(file: Path) -> Path:
    other = file.with_name("another.yaml")
    other.write_text(file.read_text())
    return other


def events(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (file.with_suffix("") / "history.jsonl").read_text().splitlines()]


def test_moves_through_all_stages(file: Path) -> None:
    challenger = {"incumbent": 0.95, "challenger": 0.05}
    nobody = {"incumbent": 1.0, "challenger": 0.0}
    for to, options, shares, event in (
        ("shadow", (), nobody, ("move", "shadow")),
        ("5%", (), challenger, ("move", "5%")),
        ("off", ("--reason", "clicks are gone"), nobody, ("kill", None)),
        ("off", (), nobody, ("kill", None)),  # repeating a kill changes nothing
        ("on", (), challenger, ("resume", None)),
        ("promoted", ("--force",), nobody, ("move", "promoted")),
        ("rolled back", (), nobody, ("move", "rolled back")),
    ):
        done = mtorl("move", file, to, *options)
        assert done.exit_code == 0 and done.stdout.startswith(f"mtorl-vs-rules: {to}: "), done.output
        assert serving(file).shares() == shares
        assert serving(file).enabled == (to not in ("off", "promoted", "rolled back")) or to == "promoted"
        assert (serving(file).arm("incumbent").endpoint is None) == (to != "promoted")
        assert (events(file)[-1]["kind"], events(file)[-1]["to"]) == event
    assert [event["number"] for event in events(file)] == [1, 2, 3, 4, 5, 6]
    assert events(file)[2]["reason"] == "clicks are gone"
    over = mtorl("move", file, "5%")
    assert over.exit_code == 2 and OVER(phase="rolled back") in over.stderr
    found = json.loads(mtorl("move", before_start(file), "shadow", "--json").stdout)
    assert (found["to"], found["shares"]) == ("shadow", nobody)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("on",), NOT_SWITCHED_OFF()),
        (("promoted",), NOT_BEGUN()),
        (("10%",), "Invalid value"),
        (("shadow", "--force"), "--force works only with promoted"),
    ],
)
def test_a_move_that_can_not_be_made_changes_nothing(file: Path, arguments: tuple[str, ...], words: str) -> None:
    done = mtorl("move", file, *arguments)
    assert done.exit_code == 2 and words in done.output
    assert not (file.with_suffix("") / "history.jsonl").exists()


def found(monkeypatch: pytest.MonkeyPatch, token: Any, *arms: str) -> None:
    """Let the commands find this verdict without reading a log."""
    counts = ArmTraffic(decisions=5, exposures=4, fallbacks=0, channels={})
    traffic = Traffic(shadow=False, arms=dict.fromkeys(arms, counts))
    known = Findings(evidence=Evidence(token, UNDECIDED(low=-1.0, high=1.0), "challenger", (), {}), traffic=traffic)
    monkeypatch.setattr("pipelines.experiments.evidence.findings_or_problem", lambda *_: known)


@pytest.mark.parametrize(
    ("token", "arms", "refused", "doubt"),
    [
        ("ship", ("incumbent", "challenger"), False, ""),
        ("inconclusive", ("incumbent", "challenger"), False, UNDECIDED(low=-1.0, high=1.0)),
        ("inconclusive", ("incumbent",), True, NOT_IN_LOG(challenger="challenger")),
        (None, (), True, LOG_UNKNOWN(fault="")),
    ],
)
def test_a_promotion_needs_decisions_of_the_challenger_or_force(
    file: Path, monkeypatch: pytest.MonkeyPatch, token: Any, arms: tuple[str, ...], refused: bool, doubt: str
) -> None:
    if token is not None:
        found(monkeypatch, token, *arms)
    mtorl("move", file, "shadow")
    done = mtorl("move", file, "promoted")
    assert done.exit_code == (2 if refused else 0), done.output
    if refused:
        assert doubt in done.stderr and serving(file).arm("incumbent").policy == "baseline"
        done = mtorl("move", file, "promoted", "--force")
    assert done.exit_code == 0 and (doubt in done.stderr if doubt else not done.stderr)
    kept = events(file)[-1]["evidence"]
    assert (kept and kept["token"]) == token, "the history keeps the evidence"


def test_an_experiment_whose_file_the_router_reads_directly_is_not_moved(file: Path) -> None:
    state = file.with_suffix("")
    state.mkdir()
    (state / "router.yaml").write_text(yaml.safe_dump({"experiment": str(file), "dataset": str(state / "none.yaml")}))
    for command in (("move", file, "off"), ("move", file, "shadow"), ("run", file)):
        done = mtorl(*command)
        assert done.exit_code == 2 and "kill switch" in done.stderr
    file.write_text(yaml.safe_dump({**FILE, "ramp": None, "stage": "5%"}))
    assert f"waits: {NO_RAMP()}" in mtorl("run", file, "--once").stdout, "its page is served anyway"
    done = mtorl("move", file, "shadow", "--state", state / "no-router")
    assert done.exit_code == 2 and NO_RAMP() in done.stderr
    assert not (state / "history.jsonl").exists() and not (state / "experiment.yaml").exists()


def test_the_ramp_follows_the_routers_log(file: Path) -> None:
    state = file.with_suffix("")
    waits = json.loads(mtorl("run", file, "--once", "--json").stdout)
    assert waits["to"] is None and len(waits["waits"]) == 1, "a draft must wait"
    assert f"mtorl serve --experiment {file}" in mtorl("move", file, "shadow").stderr, "no router reads it yet"
    assert mtorl("run", file, "--once").exit_code == 2, "without a router, nothing can run"
    SPEC.save(state / "dataset.yaml")
    served = {"dataset": str(state / "dataset.yaml"), "experiment": str(state / "experiment.yaml")}
    served |= {"ledger": str(state / "none.sqlite"), "lake": str(state / "lake")}
    (state / "router.yaml").write_text(yaml.safe_dump(served))
    at = json.loads(mtorl("status", file, "--json").stdout)["since"]
    own = {"experiment": FILE["name"], "salt": "a", "layer": "ads", "stage": "shadow", "arm": "incumbent"}
    own |= {"assignment_probability": 1.0, "event_time": at, "fallback_reason": None}
    decisions = [decision(f"d{n}", **own, user_id=f"u{n}") for n in range(6)]
    write(state / "lake", decisions, shadows=[{**shadow(f"d{n}"), "experiment": FILE["name"]} for n in range(6)])
    # The log stores whole seconds. Round the stage's start down too, or the first decision may seem to precede the
    # stage.
    history = state / "history.jsonl"
    event = json.loads(history.read_text())
    history.write_text(json.dumps({**event, "at": float(int(event["at"]))}) + "\n")
    done = mtorl("run", file, "--once", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["to"] == "5%", done.output
    assert serving(file).stage == "5%"


def test_the_router_reads_the_active_experiment_even_after_the_ramp_is_removed(file: Path) -> None:
    dataset = file.with_name("dataset.yaml")
    SPEC.save(dataset)
    whole = file.read_text()
    unused = yaml.safe_dump({**yaml.safe_load(whole), "ramp": None, "stage": "50%"})
    file.write_text(unused)
    assert served_file(file, None, dataset) == file
    file.write_text(whole)
    mtorl("move", file, "shadow")
    mtorl("move", file, "off")
    file.write_text(unused)
    assert served_file(file, None, dataset) == file.with_suffix("") / "experiment.yaml"
    assert (serving(file).enabled, serving(file).stage) == (False, "shadow")


@pytest.mark.integration
def test_run_serves_the_page_applies_edits_and_stops_with_the_experiment(file: Path) -> None:
    mtorl("move", file, "50%")
    command = [sys.executable, "-m", "cli.main", "experiment", "run", str(file), "--port", "0", "--every", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[1]
            whole = file.read_text()
            file.write_text(whole.replace("enabled: true", "enabled: false"))

            def read(path: str) -> str:  # fails until the process has read the log once
                return urllib.request.urlopen(url + path).read().decode()

            eventually(lambda: not serving(file).enabled)
            eventually(lambda: f'mtorl_experiment_switched_on{{experiment="{FILE["name"]}"}} 0.0' in read("metrics"))
            assert "<article" in read("")
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
