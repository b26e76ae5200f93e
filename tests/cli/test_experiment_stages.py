"""`mtorl experiment start`, `run`, `kill` and what else takes an experiment through its stages."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cli import experiment_run
from cli.main import app
from cli.run import served_file
from monitoring.experiments.document import ArmTraffic, Traffic
from monitoring.experiments.view import Known
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.stage_machine import Evidence, Hold
from tests.features.collect.decision_logs import SPEC, decision, write
from tests.features.collect.test_shadows import shadow
from tests.mtorl.experiment.experiments import FILE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "first-day.yaml"
    stages = [{"stage": stage, "hours": 0, "users": users} for stage, users in (("shadow", 5), ("5%", 10), ("50%", 10))]
    metrics = {"primary": "gain_per_decision", "outcome_hours": None}
    path.write_text(yaml.safe_dump({**FILE, "metrics": metrics, "ramp": {"stages": stages}}))
    return path


def mtorl(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["experiment", *map(str, arguments)])


def serving(file: Path) -> Experiment:
    return Experiment.load(file.with_suffix("") / "experiment.yaml")


def before_start(file: Path) -> Path:
    """The same experiment, which nobody has started."""
    other = file.with_name("another.yaml")
    other.write_text(file.read_text())
    return other


def test_people_start_move_switch_and_end_it(file: Path) -> None:
    assert mtorl("status", file).stdout == "mtorl-vs-rules: draft: incumbent 100%, challenger 0%\n"
    assert mtorl("start", file).stdout == "mtorl-vs-rules: shadow: incumbent 100%, challenger 0%\n"
    again = mtorl("start", file)
    assert again.exit_code == 2 and "it has begun: shadow" in again.stderr
    assert "incumbent 95%, challenger 5%" in mtorl("ramp", file, "--to", "5%").stdout
    assert serving(file).stage == "5%"
    killed = json.loads(mtorl("kill", file, "--reason", "clicks are gone", "--json").stdout)
    assert (killed["did"], killed["shares"]) == ("kill", {"incumbent": 1.0, "challenger": 0.0})
    assert not serving(file).enabled
    off = mtorl("status", file)
    assert "5%, switched off" in off.stdout and off.exit_code == 5
    mtorl("resume", file)
    assert serving(file).enabled
    refused = mtorl("promote", file)
    assert refused.exit_code == 2 and "its log can't be read, so nobody knows whether it wins" in refused.stderr
    assert "--force promotes it all the same" in refused.stderr and serving(file).arm("incumbent").policy == "baseline"
    promoted = mtorl("promote", file, "--force")
    assert promoted.exit_code == 0
    assert promoted.stdout.startswith("mtorl-vs-rules: promoted: everybody gets what challenger decides")
    assert "its log can't be read, so nobody knows whether it wins" in promoted.stderr
    assert serving(file).arm("incumbent").endpoint is not None
    rolled_back = mtorl("rollback", file)
    assert rolled_back.stdout == "mtorl-vs-rules: rolled back: incumbent 100%, challenger 0%\n"
    assert serving(file).arm("incumbent").policy == "baseline"
    assert mtorl("status", file).exit_code == 5
    assert "switched off" not in mtorl("status", file).stdout
    refused = mtorl("ramp", file, "--to", "5%")
    assert refused.exit_code == 2 and "give it a new salt" in refused.stderr
    said = json.loads(mtorl("status", file, "--json").stdout)
    assert [event["what"] for event in said["events"]] == ["shadow", "5%", "kill", "resume", "promoted", "rolled back"]
    assert said["events"][2]["reason"] == "clicks are gone"


def found(monkeypatch: pytest.MonkeyPatch, token: Any, *arms: str) -> None:
    """Let a log say that, and have decisions of these arms."""
    counts = ArmTraffic(decisions=5, exposures=4, fallbacks=0, channels={})
    traffic = Traffic(first=None, last=None, shadow=False, arms=dict.fromkeys(arms, counts))
    known = Known(evidence=Evidence(token, "its interval", "challenger", (), {}), traffic=traffic)
    monkeypatch.setattr("pipelines.experiments.look.known_now", lambda *_: known)


@pytest.mark.parametrize(("token", "said"), [("ship", False), ("inconclusive", True)])
def test_a_promotion_against_the_evidence_says_so(
    file: Path, monkeypatch: pytest.MonkeyPatch, token: Any, said: bool
) -> None:
    found(monkeypatch, token, "incumbent", "challenger")
    mtorl("start", file)
    done = mtorl("promote", file)
    assert (f"promoted all the same: its verdict is {token}: its interval" in done.stderr) == said
    event = json.loads(file.with_suffix("").joinpath("history.jsonl").read_text().splitlines()[-1])
    assert event["evidence"]["token"] == token, "the history has what was known"


def test_a_challenger_that_nobody_has_asked_is_not_promoted_without_force(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(monkeypatch, "inconclusive", "incumbent")
    early = mtorl("promote", file)
    assert early.exit_code == 2 and "it has not begun" in early.stderr, "that is said first"
    mtorl("start", file)
    refused = mtorl("promote", file)
    assert refused.exit_code == 2 and "no decision of challenger is in the log" in refused.stderr
    assert "promoted all the same: no decision of challenger" in mtorl("promote", file, "--force").stderr


def test_a_move_while_it_is_switched_off_says_what_resume_will_do(file: Path) -> None:
    mtorl("start", file)
    mtorl("kill", file)
    said = mtorl("ramp", file, "--to", "50%").stdout
    assert f"it is switched off: it goes on at 50% at once with mtorl experiment resume {file}" in said
    assert "leaves out" not in said, "it had begun"
    mtorl("resume", file)
    file.write_text(file.read_text().replace("enabled: true", "enabled: false"))
    assert "at once when the file says `enabled: true`" in mtorl("ramp", file, "--to", "5%").stdout


def test_a_move_from_the_draft_says_what_it_leaves_out(file: Path) -> None:
    assert "it leaves out shadow, 5%: nobody has seen" in mtorl("ramp", file, "--to", "50%").stdout
    other = before_start(file)
    assert "leaves out" not in mtorl("start", other).stdout


def test_check_says_what_serve_would_refuse(file: Path) -> None:
    """An earlier promotion that the file does not know of, or a change of what may not change."""
    SPEC.save(dataset := file.with_name("dataset.yaml"))
    mtorl("start", file)
    assert mtorl("check", file, "--dataset", dataset).exit_code == 0
    whole = file.read_text()
    file.write_text(whole.replace("alpha: 0.05", "alpha: 0.2"))
    done = mtorl("check", file, "--dataset", dataset)
    assert done.exit_code == 2 and "alpha may not change once it has begun" in done.stderr
    file.write_text(whole)
    mtorl("promote", file, "--force")
    file.write_text(whole.replace("salt: a", "salt: next"))
    done = mtorl("check", file, "--dataset", dataset)
    assert done.exit_code == 2 and "was promoted in mtorl-vs-rules under salt 'a'" in done.stderr
    assert mtorl("check", file, "--dataset", dataset, "--state", file.with_name("new")).exit_code == 0


def test_a_rollback_of_the_next_try_says_that_the_promotion_before_it_stays(file: Path) -> None:
    arms = [{"name": name, "weight": 0.5, "endpoint": f"http://{name}/decide"} for name in ("incumbent", "challenger")]
    fields = {**yaml.safe_load(file.read_text()), "arms": arms}
    file.write_text(yaml.safe_dump(fields))
    mtorl("start", file)
    mtorl("promote", file, "--force")
    arms[0]["endpoint"] = "http://challenger/decide"
    file.write_text(yaml.safe_dump({**fields, "salt": "next"}))
    assert mtorl("start", file).exit_code == 0
    said = mtorl("rollback", file)
    assert (
        said.exit_code == 0 and "of salt 'a' decides stays the incumbent: to undo that promotion, give" in said.stdout
    )


def test_status_says_who_is_held_out(file: Path) -> None:
    file.write_text(file.read_text() + "holdout: 0.02\n")
    mtorl("start", file)
    assert "  held out: 0.02 of the users are in no arm\n" in mtorl("status", file).stdout
    assert mtorl("promote", file, "--force").exit_code == 0
    said = mtorl("status", file).stdout
    assert "keep the incumbent of before: mtorl experiment watch says what the promotion brings" in said
    assert json.loads(mtorl("status", file, "--json").stdout)["holdout"] == 0.02


def test_status_says_what_is_not_in_force_yet(file: Path) -> None:
    mtorl("start", file)
    mtorl("ramp", file, "--to", "5%")
    file.write_text(file.read_text().replace("enabled: true", "enabled: false"))
    said = mtorl("status", file).stdout
    assert "5%, switched off" in said and "not in force yet" in said
    assert not json.loads(mtorl("status", file, "--json").stdout)["in_force"]
    assert mtorl("kill", file).exit_code == 0
    assert "not in force yet" not in mtorl("status", file).stdout


def test_run_goes_on_after_a_full_disk(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mtorl("start", file)
    steps: list[Exception | Hold] = [OSError(28, "No space left on device"), Hold(("the last stage",))]

    def step(*_: Any) -> Hold:
        next_ = steps.pop(0)
        if isinstance(next_, Exception):
            raise next_
        mtorl("stop", file)
        return next_

    monkeypatch.setattr("pipelines.experiments.controller.next_step", step)
    done = mtorl("run", file, "--every", 0.1)
    assert done.exit_code == 0, done.output
    assert "nothing changes: [Errno 28]" in done.stdout and "waits: the last stage" in done.stdout


def test_a_clock_that_is_ahead_for_a_moment_ends_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It used to be over for good: its planned end had come."""
    now = time.time()
    planned_end = datetime.fromtimestamp(now + 30 * 86_400, UTC).isoformat()
    file.write_text(file.read_text() + f"planned_end: {planned_end}\n")
    mtorl("start", file)
    monkeypatch.setattr("pipelines.experiments.look.evidence_now", lambda *_: None)
    waits: list[str] = []

    def wait(*_: Any) -> None:
        waits.append(json.loads(mtorl("status", file, "--json").stdout)["phase"])
        clock.time = lambda: now + (len(waits) % 2) * 365 * 86_400 + len(waits)
        if len(waits) == 4:
            mtorl("stop", file)

    clock = SimpleNamespace(time=lambda: now, monotonic=lambda: float(len(waits)), sleep=time.sleep)
    monkeypatch.setattr(experiment_run, "time", clock)
    monkeypatch.setattr(experiment_run, "_wait", wait)
    done = mtorl("run", file)
    assert done.exit_code == 0, done.output
    assert waits == ["shadow"] * 4


def test_a_broken_file_stops_nobody_from_pulling_the_switch(file: Path) -> None:
    mtorl("start", file)
    mtorl("ramp", file, "--to", "50%")
    file.write_text("{")
    assert mtorl("status", file).exit_code == 2
    done = mtorl("kill", file)
    assert done.exit_code == 0 and "kill: incumbent 100%, challenger 0%" in done.stdout
    assert not serving(file).enabled


def test_it_takes_a_ramp_to_start(file: Path) -> None:
    file.write_text(yaml.safe_dump({**FILE, "ramp": None, "stage": "5%"}))
    done = mtorl("start", file)
    assert done.exit_code == 2 and "it has no ramp" in done.stderr


def test_where_the_router_reads_the_file_itself_nothing_is_said_to_be_in_force(file: Path) -> None:
    state = file.with_suffix("")
    state.mkdir()
    (state / "router.yaml").write_text(yaml.safe_dump({"experiment": str(file), "dataset": str(state / "none.yaml")}))
    for command in ("kill", "start", "run"):
        done = mtorl(command, file)
        assert done.exit_code == 2 and "`enabled: false` there is its kill switch" in done.stderr
    assert not (state / "history.jsonl").exists()


def test_the_ramp_goes_on_by_what_the_routers_log_says(file: Path) -> None:
    state = file.with_suffix("")
    before = mtorl("run", file, "--once")
    assert before.exit_code == 0 and "waits: it is a draft: start it" in before.stdout
    mtorl("start", file)
    SPEC.save(state / "dataset.yaml")
    waits = json.loads(mtorl("run", before_start(file), "--once", "--json").stdout)
    assert waits["to"] is None and waits["waits"] == ["it is a draft: start it"]
    unserved = mtorl("run", file, "--once")
    assert unserved.exit_code == 2 and "no router has been started there" in unserved.stderr
    served = {"dataset": str(state / "dataset.yaml"), "experiment": str(state / "experiment.yaml")}
    (state / "router.yaml").write_text(yaml.safe_dump(served))
    (state / "spool").mkdir()
    unasked = mtorl("run", file, "--once")
    assert unasked.exit_code == 0 and "0 of 5 users of challenger" in unasked.stdout
    (state / "spool").rmdir()
    at = json.loads(mtorl("status", file, "--json").stdout)["since"]
    own = {"experiment": FILE["name"], "salt": "a", "layer": "ads", "stage": "shadow", "arm": "incumbent"}
    own |= {"assignment_probability": 1.0, "event_time": at, "fallback_reason": None}
    decisions = [decision(f"d{n}", **own, user_id=f"u{n}") for n in range(6)]
    shadows = [{**shadow(f"d{n}"), "experiment": FILE["name"]} for n in range(6)]
    write(state / "exported", decisions, shadows=shadows)
    # The start of the stage has parts of a second, which the time of these decisions lacks.
    history = state / "history.jsonl"
    event = json.loads(history.read_text())
    history.write_text(json.dumps({**event, "at": float(int(event["at"]))}) + "\n")
    done = mtorl("run", file, "--once")
    assert done.exit_code == 0, done.output
    assert "  5%: 0 hours at shadow are over, 6 users of incumbent, 6 users of challenger" in done.stdout
    assert serving(file).stage == "5%"


def test_without_its_ramp_the_router_still_reads_what_is_in_force_once_it_has_begun(file: Path) -> None:
    dataset = file.with_name("dataset.yaml")
    SPEC.save(dataset)
    whole = file.read_text()
    unused = yaml.safe_dump({**yaml.safe_load(whole), "ramp": None, "stage": "50%"})
    file.write_text(unused)
    assert served_file(file, None, dataset) == file
    file.write_text(whole)
    mtorl("start", file)
    mtorl("kill", file)
    file.write_text(unused)
    assert served_file(file, None, dataset) == file.with_suffix("") / "experiment.yaml"
    assert (serving(file).enabled, serving(file).stage) == (False, "shadow")


def test_a_file_that_changes_what_is_measured_changes_nothing(file: Path) -> None:
    mtorl("start", file)
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "alpha": 0.2}))
    done = mtorl("run", file, "--once")
    assert done.exit_code == 2 and "alpha may not change once it has begun" in done.stderr
    assert serving(file).alpha == 0.05


def test_an_edit_comes_into_force_while_run_waits(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mtorl("ramp", file, "--to", "50%")
    state = file.with_suffix("")
    SPEC.save(state / "dataset.yaml")
    (state / "router.yaml").write_text(yaml.safe_dump({"dataset": str(state / "dataset.yaml"), "experiment": "x"}))
    edits = iter(["{", yaml.safe_dump({**yaml.safe_load(file.read_text()), "enabled": False})])
    seen = []

    def edit(_: float) -> None:
        seen.append(serving(file).enabled)
        try:
            file.write_text(next(edits))
        except StopIteration:
            raise KeyboardInterrupt from None

    # Its own clock: threads that other tests have left sleep by the real one.
    clock = SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=edit)
    monkeypatch.setattr(experiment_run, "time", clock)
    done = mtorl("run", file, "--every", "3600")
    assert done.exit_code == 130
    assert seen == [True, True, False]


@pytest.mark.parametrize("fault", ["the file", "the log", "no router"])
def test_run_waits_until_what_can_not_be_read_is_mended(
    fault: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing follows from a fault: not even that its planned end has come without a win."""
    content = {**yaml.safe_load(file.read_text()), "planned_end": "2026-01-01T00:00:00Z"}
    file.write_text(yaml.safe_dump(content))
    mtorl("ramp", file, "--to", "50%")
    state, looks = file.with_suffix(""), []
    SPEC.save(state / "dataset.yaml")
    router = yaml.safe_dump({"dataset": str(state / "dataset.yaml"), "experiment": "x"})
    if fault != "no router":
        (state / "router.yaml").write_text(router)
    (state / "exported").mkdir()
    (state / "exported" / "decisions.parquet").write_text("rubbish")

    def look_again(_: Any, __: float) -> None:
        looks.append(serving(file).stage)
        if len(looks) == 3:
            raise KeyboardInterrupt
        if fault == "the file":
            file.write_text("{")

    monkeypatch.setattr(experiment_run, "_wait", look_again)
    done = mtorl("run", file)
    assert done.exit_code == 130 and len(looks) == 3, done.output
    assert done.stdout.count("nothing changes: ") == (2 if fault == "the file" else 1), done.stdout
    assert len(state.joinpath("history.jsonl").read_text().splitlines()) == 1
