import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.experiment.table import print_experiments
from mtorl.experiment.experiment import Experiment
from mtorl.policy.exploration import Exploration
from tests.cli.test_experiment import mtorl
from tests.features.collect.decision_logs import SPEC, START, decision, outcome, write
from tests.monitoring.experiments import made_views as made
from tests.mtorl.experiment.experiments import FILE


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """Return the file of an experiment at the 50 % stage, with a decision log."""
    file, state = tmp_path / "first-day.yaml", tmp_path / "first-day"
    metrics = {"primary": "click_per_decision", "outcome_hours": None}
    stages = [{"stage": "50%", "hours": 0, "users": 100}]
    file.write_text(yaml.safe_dump({**FILE, "metrics": metrics, "ramp": {"stages": stages}}))
    assert mtorl("move", file, "50%").exit_code == 0
    history = state / "history.jsonl"
    history.write_text(json.dumps({**json.loads(history.read_text()), "at": START.timestamp()}) + "\n")
    SPEC.save(state / "dataset.yaml")
    names = {"dataset": str(state / "dataset.yaml"), "experiment": "x", "ledger": str(state / "none.sqlite")}
    own: dict[str, Any] = {"experiment": FILE["name"], "salt": "a", "layer": "ads", "stage": "50%", "expose": True}
    own |= {"assignment_probability": 0.5, "fallback_reason": None, "shares": {"incumbent": 0.5, "challenger": 0.5}}
    arms = ["challenger" if n % 2 else "incumbent" for n in range(400)]
    decisions = [decision(f"d{n}", n, **own, arm=arm, user_id=f"u{n}") for n, arm in enumerate(arms)]
    outcomes = [outcome(f"c{n}", f"d{n}", minutes=n + 1) for n in range(400)]
    clicked = [n for n, arm in enumerate(arms) if arm == "challenger" or n % 8 == 0]
    outcomes += [outcome(f"k{n}", f"d{n}", "click", 1.0, n + 1) for n in clicked]
    names["lake"] = str(write(state / "lake", decisions, outcomes))
    (state / "router.yaml").write_text(yaml.safe_dump(names))
    return file


def test_a_first_file_is_valid_and_explains_its_fields(tmp_path: Path) -> None:
    file = tmp_path / "first-day.yaml"
    SPEC.save(tmp_path / "dataset.yaml")
    done = mtorl("init", file, "--dataset", tmp_path / "dataset.yaml")
    assert done.exit_code == 0, done.output
    assert f"\n  mtorl experiment check {file} --dataset {tmp_path / 'dataset.yaml'}\n" in done.stdout
    text = file.read_text()
    week = text.replace('- {campaign: "*", channel: "*", amount: 1000}', "").replace("\n# - {", "\n- {")
    made_ = Experiment.from_dict(yaml.safe_load(week.replace("\n#    pacing", "\n   pacing")))
    assert [budget.pacing is not None for budget in made_.budgets] == [True, True], "the examples are valid"
    made_ = Experiment.load(file)
    made_.check(SPEC)
    assert made_.name == "first-day" and made_.ramp is not None and made_.ramp.stages[0].stage == "shadow"
    assert mtorl("check", file, "--dataset", tmp_path / "dataset.yaml").exit_code == 0
    assert [arm.explore for arm in made_.arms] == [Exploration(share=0.05, scope="both")] * 2
    again = mtorl("init", file, "--dataset", "simulator")
    assert again.exit_code == 2 and "already exists" in again.stderr and file.read_text() == text
    other = tmp_path / "other.yaml"
    assert mtorl("init", other, "--dataset", "simulator", "--explore", 0).exit_code == 0
    assert Experiment.load(other).salt != made_.salt, "the salt must be random"
    assert [arm.explore for arm in Experiment.load(other).arms] == [None] * 2


@pytest.mark.parametrize("dataset", ["simulator", "kuairand-sequence", "criteo-sequence"])
def test_a_first_file_fits_each_built_in_data_set(dataset: str, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    odd = "a: b # \"c\" 'd'"
    for wrong in (("--dataset", dataset, "--endpoint", "not-a-url"), ("--dataset", "nothing")):
        assert mtorl("init", file, *wrong).exit_code == 2 and not file.exists()
    done = mtorl("init", file, "--dataset", dataset, "--name", odd, "--owner", odd, "--amount", 12.5)
    assert done.exit_code == 0, done.output
    found = Experiment.load(file)
    assert (found.name, found.owner, found.budgets[0].amount) == (odd, odd, 12.5)


@pytest.fixture
def table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], str]:
    """Return a function that prints an experiment as on a terminal with 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def printed(view: Any) -> str:
        print_experiments([view])
        return capsys.readouterr().out

    return printed


def test_the_table_and_the_document_give_advice(served: Path) -> None:
    done = mtorl("status", served)
    assert done.exit_code == 0, done.output
    assert "Promote challenger" in done.stdout
    assert f"mtorl experiment move {served} promoted".replace(" ", "") in "".join(done.stdout.split())
    assert "as configured: ok" in done.stdout and "by person" in done.stdout
    view = json.loads(mtorl("status", served, "--json").stdout)
    assert view["advice"]["action"] == "promote" and view["verdict"]["verdict"] == "ship"
    # Without a ledger, spend comes from the log.
    whole = next(spend for spend in view["spend"] if spend["arm"] == "*")
    assert whole["spent"] == pytest.approx(12.0) and whole["limit"] == 1000
    assert view["traffic"]["arms"]["challenger"]["decisions"] == 200
    assert view["newest"]["at"] == "2026-01-01T18:39:00+00:00" and view["newest"]["silence"]


def test_verdict_and_status_show_the_same_verdict_and_table(served: Path) -> None:
    view = json.loads(mtorl("status", served, "--json").stdout)
    found = json.loads(mtorl("verdict", served, "--experiment", served, "--json").stdout)
    for field in ("verdict", "reason", "challengers", "arms", "srm_p", "left_out"):
        assert view["verdict"][field] == found[field], field
    status, verdict = (mtorl(command, served, *more).stdout for command, more in (
        ("status", ()), ("verdict", ("--experiment", served)),
    ))  # fmt: skip
    _, _, rows = verdict.partition("\n\n")
    assert rows.strip() in status


def test_a_stopped_router_is_reported(served: Path) -> None:
    content = served.read_text()
    served.write_text(content.replace("users: 100", "users: 100000"))
    lock = served.with_suffix("") / "stack.lock"
    lock.write_text(str(os.getpid()))
    running = json.loads(mtorl("status", served, "--json").stdout)["advice"]
    assert running["action"] == "look"  # because the log is months old
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        lock.write_text(str(ended.pid))
    done = mtorl("status", served, "--json")
    down = json.loads(done.stdout)["advice"]
    assert (down["action"], down["condition"]) == ("run", "held")
    assert down["command"] == f"mtorl serve --experiment {served}" and done.exit_code == 4


def test_several_files(served: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    mtorl("init", other, "--dataset", "simulator")
    done = mtorl("status", served, other)
    assert done.exit_code == 0, done.output
    assert "Promote challenger" in done.stdout and "Start the experiment" in done.stdout
    assert "as configured" not in done.stdout, "details must be left out"
    found = json.loads(mtorl("status", other, served, "--json").stdout)
    assert [view["name"] for view in found] == ["other", FILE["name"]]
    mtorl("move", served, "off")
    assert mtorl("status", served, other).exit_code == 5 == mtorl("status", other, served, "--json").exit_code
    assert mtorl("status", served, other, "--state", tmp_path).exit_code == 2


def test_an_unreadable_log_holds_the_experiment(served: Path) -> None:
    for file in (served.with_suffix("") / "lake").rglob("*.parquet"):
        file.write_text("rubbish")
    done = mtorl("status", served, "--json")
    assert done.exit_code == 4 and "can't be read" in json.loads(done.stdout)["problem"]
    served.write_text("{")
    broken = mtorl("status", served, "--json")
    assert broken.exit_code == 4 and str(served) in json.loads(broken.stdout)["problem"]
    (served.with_suffix("") / "experiment.yaml").unlink()
    assert mtorl("status", served).exit_code == 2


def test_a_draft_needs_no_router(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    mtorl("init", file, "--dataset", "simulator")
    done = mtorl("status", file)
    assert done.exit_code == 0 and f"move {file} shadow".replace(" ", "") in "".join(done.stdout.split())
    mtorl("move", file, "shadow")
    assert mtorl("status", file).exit_code == 4, "no router serves the draft"
    assert not (file.with_suffix("") / "router.yaml").exists()


def test_the_page_is_one_file(served: Path, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    assert mtorl("status", served, "--by", "device", "--page", file).exit_code == 0
    page = file.read_text()
    assert "Promote challenger" in page and "exploratory" in page and "<script" not in page
    assert mtorl("status", served, served, "--page", file).exit_code == 0
    assert file.read_text().count("<article") == 2
    assert mtorl("status", served, "--by", "hour").exit_code == 2


@pytest.mark.parametrize("state", made.STATES)
def test_every_state_fits_a_terminal(state: str, table: Callable[[Any], str]) -> None:
    view = made.STATES[state]()
    text = table(view)
    assert view["advice"]["headline"] in text
    assert max(map(len, text.splitlines())) <= 80


def test_markup_in_a_name_is_escaped(table: Callable[[Any], str]) -> None:
    assert "[red]x[/red]" in table(made.view(made.made(name="[red]x[/red]", owner="[b]"), [], 0.0))
