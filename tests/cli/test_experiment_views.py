"""`mtorl experiment init`, `watch`, `report` and `web`: a first file, and what people see of an experiment."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from cli import experiment_views
from cli.experiment_screen import screen
from cli.main import app
from mtorl.experiment.experiment import Experiment
from mtorl.log.dataset import DatasetSpec
from tests.experiments import experiment
from tests.features.collect.decision_logs import SPEC, START, decision, outcome, write
from tests.monitoring.experiments import made_views as made
from tests.mtorl.experiment.experiments import FILE
from tests.repository import ROOT


def mtorl(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["experiment", *map(str, arguments)])


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """An experiment that runs at 50 %, with a log of its router."""
    file, state = tmp_path / "first-day.yaml", tmp_path / "first-day"
    metrics = {"primary": "click_per_decision", "outcome_hours": None}
    stages = [{"stage": "50%", "hours": 0, "users": 100}]
    file.write_text(yaml.safe_dump({**FILE, "metrics": metrics, "ramp": {"stages": stages}}))
    assert mtorl("start", file).exit_code == 0
    history = state / "history.jsonl"  # it began with the first decision of the log
    history.write_text(json.dumps({**json.loads(history.read_text()), "at": START.timestamp()}) + "\n")
    SPEC.save(state / "dataset.yaml")
    names = {"dataset": str(state / "dataset.yaml"), "experiment": "x", "ledger": str(state / "none.sqlite")}
    (state / "router.yaml").write_text(yaml.safe_dump(names))
    own: dict[str, Any] = {"experiment": FILE["name"], "salt": "a", "layer": "ads", "stage": "50%", "expose": True}
    own |= {"assignment_probability": 0.5, "fallback_reason": None, "shares": {"incumbent": 0.5, "challenger": 0.5}}
    arms = ["challenger" if n % 2 else "incumbent" for n in range(400)]
    decisions = [decision(f"d{n}", n, **own, arm=arm, user_id=f"u{n}") for n, arm in enumerate(arms)]
    outcomes = [outcome(f"c{n}", f"d{n}", minutes=n + 1) for n in range(400)]
    clicked = [n for n, arm in enumerate(arms) if arm == "challenger" or n % 8 == 0]
    outcomes += [outcome(f"k{n}", f"d{n}", "click", 1.0, n + 1) for n in clicked]
    write(state / "exported", decisions, outcomes)
    return file


def test_a_first_file_can_be_used_as_it_is_and_teaches(tmp_path: Path) -> None:
    file = tmp_path / "first-day.yaml"
    SPEC.save(tmp_path / "dataset.yaml")
    done = mtorl("init", file, "--dataset", tmp_path / "dataset.yaml")
    assert done.exit_code == 0, done.output
    assert f"mtorl experiment check {file} --dataset {tmp_path / 'dataset.yaml'}" in done.stdout
    assert f"mtorl experiment run {file}" in done.stdout
    text = file.read_text()
    assert f"mtorl experiment check FILE --dataset {tmp_path / 'dataset.yaml'}\n" in text
    assert "the rest is for users outside" in text, "with a part of the layer, the amount is not the arms' alone"
    lines = [line for line in text.splitlines() if str(tmp_path) not in line]
    assert text.count("#") > 25 and max(map(len, lines)) <= 140
    made_ = Experiment.load(file)
    made_.check(SPEC)
    assert made_.name == "first-day" and made_.ramp is not None and made_.ramp.stages[0].stage == "shadow"
    assert mtorl("check", file, "--dataset", tmp_path / "dataset.yaml").exit_code == 0
    again = mtorl("init", file, "--dataset", "simulator")
    assert again.exit_code == 2 and "is there already" in again.stderr and file.read_text() == text
    other = tmp_path / "other.yaml"
    assert mtorl("init", other, "--dataset", "simulator").exit_code == 0
    assert Experiment.load(other).salt != made_.salt, "nobody can guess it"


@pytest.mark.parametrize("dataset", ["simulator", "kuairand-sequence", "criteo-sequence"])
def test_a_first_file_fits_each_built_in_data_set(dataset: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    odd = "a: b # \"c\" 'd'"
    done = mtorl("init", file, "--dataset", dataset, "--name", odd, "--owner", odd, "--amount", 12.5)
    assert done.exit_code == 0, done.output
    found = Experiment.load(file)
    found.check(DatasetSpec.load(dataset))
    assert (found.name, found.owner, found.budgets[0].amount) == (odd, odd, 12.5)


def test_a_first_file_that_can_not_be_used_is_not_written(tmp_path: Path) -> None:
    done = mtorl("init", tmp_path / "x.yaml", "--dataset", "simulator", "--endpoint", "not-a-url")
    assert done.exit_code == 2 and "is not an http(s) URL" in done.stderr and not (tmp_path / "x.yaml").exists()
    assert mtorl("init", tmp_path / "x.yaml", "--dataset", "nothing").exit_code == 2


def test_watch_says_what_to_do(served: Path) -> None:
    done = mtorl("watch", served, "--once")
    assert done.exit_code == 0, done.output
    assert "Promote challenger" in done.stdout
    assert f"mtorl experiment promote {served}".replace(" ", "") in "".join(done.stdout.split())
    assert "users are split as configured: ok" in done.stdout
    view = json.loads(mtorl("watch", served, "--json").stdout)
    assert view["advice"]["action"] == "promote" and view["verdict"]["verdict"] == "ship"
    # Without a ledger, money is what the log says.
    whole = next(spend for spend in view["spend"] if spend["arm"] == "*")
    assert whole["spent"] == pytest.approx(12.0) and whole["limit"] == 1000
    assert view["traffic"]["arms"]["challenger"]["decisions"] == 200


def test_a_promotion_whose_file_has_gone_on_is_not_switched_off(served: Path) -> None:
    assert mtorl("promote", served).exit_code == 0
    served.write_text(served.read_text().replace("salt: a", "salt: next"))
    view = json.loads(mtorl("watch", served, "--json").stdout)
    assert (view["phase"], view["enabled"], view["advice"]["action"]) == ("promoted", True, "mend")
    assert view["advice"]["headline"] == "Mend what can't be used: until then nothing changes"
    assert "switched off" not in mtorl("watch", served, "--once").stdout


def test_a_router_that_does_not_run_is_said(served: Path, tmp_path: Path) -> None:
    """It was killed, and watch went on to say: let it run."""
    content = served.read_text()
    served.write_text(content.replace("users: 100", "users: 100000"))
    lock = served.with_suffix("") / "stack.lock"
    lock.write_text(str(os.getpid()))
    running = json.loads(mtorl("watch", served, "--json").stdout)["advice"]
    assert running["headline"] == "Find out why no decision comes any more"  # the log is months old
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        lock.write_text(str(ended.pid))
    done = mtorl("watch", served, "--json")
    down = json.loads(done.stdout)["advice"]
    assert (down["headline"], down["condition"]) == ("Start its router: nobody decides now", "held")
    assert down["command"] == f"mtorl serve --experiment {served}" and done.exit_code == 4


def test_watch_takes_several_files(served: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    mtorl("init", other, "--dataset", "simulator")
    done = mtorl("watch", served, other, "--once")
    assert done.exit_code == 0, done.output
    assert "Promote challenger" in done.stdout and "Start it when you are ready" in done.stdout
    assert "users are split as configured" not in done.stdout, "as much as fits on a screen"
    found = json.loads(mtorl("watch", other, served, "--json").stdout)
    assert [view["name"] for view in found] == ["other", FILE["name"]]
    mtorl("kill", served)
    assert mtorl("watch", served, other, "--once").exit_code == 5 == mtorl("watch", other, served, "--json").exit_code
    several = mtorl("watch", served, other, "--once", "--state", tmp_path)
    assert several.exit_code == 2 and "name one file" in several.stderr


@pytest.mark.parametrize(("command", "code"), [("kill", 5), ("stop", 0), ("rollback", 5)])
def test_its_exit_code_says_whether_a_person_is_needed(command: str, code: int, served: Path) -> None:
    assert mtorl(command, served).exit_code == 0
    assert mtorl("watch", served, "--once").exit_code == code


def test_what_can_not_be_read_is_held(served: Path) -> None:
    (served.with_suffix("") / "exported" / "decisions.parquet").write_text("rubbish")
    done = mtorl("watch", served, "--once", "--json")
    assert done.exit_code == 4 and "can't be read" in json.loads(done.stdout)["problem"]
    served.write_text("{")
    broken = mtorl("watch", served, "--once", "--json")
    assert broken.exit_code == 4 and str(served) in json.loads(broken.stdout)["problem"]
    (served.with_suffix("") / "experiment.yaml").unlink()
    assert mtorl("watch", served, "--once").exit_code == 2


def test_a_draft_needs_no_router(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    mtorl("init", file, "--dataset", "simulator")
    done = mtorl("watch", file, "--once")
    assert done.exit_code == 0 and "Start it when you are ready" in done.stdout
    mtorl("start", file)
    assert mtorl("watch", file, "--once").exit_code == 4, "no router serves it"
    assert not (file.with_suffix("") / "router.yaml").exists()


def test_stages_that_people_set_by_hand_are_shown_as_well(tmp_path: Path, served: Path) -> None:
    metrics = {"primary": "click_per_decision", "outcome_hours": None}
    arms = [{"name": "incumbent", "weight": 0.5, "policy": "baseline"}, {"name": "challenger", "weight": 0.5}]
    content = experiment("http://a", name=FILE["name"], salt="a", layer="ads", arms=arms, metrics=metrics)
    file = tmp_path / "by-hand.yaml"
    file.write_text(yaml.safe_dump(content))
    (served.with_suffix("") / "history.jsonl").unlink()
    done = mtorl("watch", file, "--state", served.with_suffix(""), "--once", "--json")
    view = json.loads(done.stdout)
    assert view["phase"] == "50%" and view["advice"]["headline"] == "Ship challenger"


def test_report_is_one_file(served: Path, tmp_path: Path) -> None:
    done = mtorl("report", served, "--by", "device")
    assert done.exit_code == 0, done.output
    page = served.with_suffix(".html").read_text()
    assert "Promote challenger" in page and "exploratory" in page and "<script" not in page
    several = mtorl("report", served, served)
    assert several.exit_code == 2 and "--out" in several.stderr
    assert mtorl("report", served, served, "--out", tmp_path / "all.html").exit_code == 0
    assert (tmp_path / "all.html").read_text().count("<article") == 2
    assert mtorl("report", served, "--by", "hour").exit_code == 2


@pytest.mark.parametrize("state", made.STATES)
def test_every_state_fits_a_terminal(state: str) -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    view = made.STATES[state]()
    console.print(screen([view]))
    text = console.export_text()
    assert view["advice"]["headline"] in text
    assert max(map(len, text.splitlines())) <= 80


def test_money_of_users_outside_is_called_that() -> None:
    experiment, users = made.made(layer_part=[0.0, 0.25]), {"incumbent": 500, "challenger": 500}
    events = made.history(experiment, (0, "50%", {"by": "person"}))
    view = made.view(experiment, events, 2.0, made.verdict("inconclusive", "zero", users, 0.0), users)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(screen([view]))
    text = console.export_text()
    assert "all arms and users outside: 8,200.00 of 20,000.00 currency units spent" in text
    assert "users outside: 6,150.00 of 15,000.00 currency units spent" in text


def test_status_says_how_old_the_newest_decision_is(served: Path) -> None:
    found = json.loads(mtorl("status", served, "--json").stdout)
    assert found["newest"]["at"] == "2026-01-01T18:39:00+00:00" and found["problem"] is None
    assert "\n  no decision has come for " in mtorl("status", served).stdout
    assert ", since 2026-01-01 18:39 UTC; in the week before, the longest time" in mtorl("status", served).stdout
    for log in served.with_suffix("").rglob("decisions.parquet"):
        log.write_bytes(b"of something else")
    broken = mtorl("status", served)
    assert broken.exit_code == 0 and "the log can't be read" in broken.stdout and "50% " in broken.stdout


def test_the_terminal_says_how_old_the_newest_decision_is() -> None:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(screen([made.early()]))
    console.print(screen([made.silent()]))
    text = console.export_text()
    assert text.count("the newest decision in the log is 4 minutes old") == 1
    assert "\nno decision has come for 50 minutes, since 2026-11-22 10:16 UTC;" in text


def test_a_skipped_stage_is_called_so_in_the_terminal() -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(screen([made.skipped()]))
    assert "● draft ─── ● shadow ─── ● 1% ─── ◌ 5% skipped ─── ◉ 50% ─── ○ promoted" in console.export_text()


def test_markup_in_a_name_is_text() -> None:
    view = made.view(made.made(name="[red]x[/red]", owner="[b]"), [], 0.0)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(screen([view]))
    assert "[red]x[/red]" in console.export_text()


def test_watch_looks_again_until_it_is_ended(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    # Its own clock: threads that other tests have left sleep by the real one.
    clock = SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=sleep)
    monkeypatch.setattr(experiment_views, "time", clock)
    done = mtorl("watch", served, "--every", "7")
    assert done.exit_code == 0 and looks == [7.0, 7.0, 7.0] and "Promote challenger" in done.stdout


@pytest.mark.integration
def test_web_serves_the_page_until_it_is_ended(served: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "experiment", "web", str(served), "--port", "0", "--every", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+/", line)
            assert found, line
            page = urllib.request.urlopen(found[0]).read().decode()
            assert "Promote challenger" in page and "setInterval(refresh" in page
            mtorl("kill", served)
            until = time.monotonic() + 60
            while "It is switched off" not in urllib.request.urlopen(found[0]).read().decode():
                assert time.monotonic() < until
                time.sleep(0.3)
            gauges = urllib.request.urlopen(f"{found[0]}metrics").read().decode()
            assert f'mtorl_experiment_switched_on{{experiment="{FILE["name"]}"}} 0.0' in gauges
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0 and "stopped" in process.stdout.read()
        finally:
            process.kill()
