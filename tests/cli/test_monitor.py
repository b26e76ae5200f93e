import errno
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.monitor import exit_code
from monitoring.messages import NO_CHECK
from monitoring.pipeline_runs import PipelineRun
from monitoring.watch.state import STATE_FILE, Alarm, Group, NotJudged, Reason, State, Stream, alone

AT = datetime(2026, 1, 2, tzinfo=UTC)


def call(*arguments: object) -> tuple[int, str]:
    answer = CliRunner().invoke(app, ["monitor", *map(str, arguments)])
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.exception
    assert "Traceback" not in answer.output
    return answer.exit_code, answer.output


def found(*alarms: str, reason: Reason | None = None) -> State:
    state = State(checked=AT)
    for kind in alarms:
        alarm = Alarm(kind=kind, since=AT, text=f"a sentence about {kind}")  # type: ignore[arg-type]
        if kind == "data_quality":
            state.broken["device"] = alarm
        else:
            state.streams[f"outcomes/{kind}"] = Stream(alarm=alarm)
    why = NotJudged(reason=reason, text="for a reason") if reason else None
    state.groups = {"outcomes": Group(end=AT, decisions=1_234, users=600), "context": Group(end=AT, not_judged=why)}
    return state


CASES: list[tuple[State, int]] = [
    (found(), 0),
    (found(reason="learning"), 0),
    (found(reason="nothing_there"), 0),
    (found(reason="closed"), 0),
    (found("drift"), 3),
    (found("harm"), 5),
    (found("data_quality"), 5),
    (found("drift", "harm", reason="no_model"), 5),
    (found(reason="no_model"), 6),
    (found("drift", reason="unreadable_log"), 6),
]


@pytest.mark.parametrize(("state", "code"), CASES)
def test_the_exit_code_of_status_is_the_finding(state: State, code: int, tmp_path: Path) -> None:
    state.write(tmp_path / STATE_FILE)
    ended, output = call("status", "--state", tmp_path)
    assert ended == exit_code(state) == code
    assert ("nothing is wrong" in output) == (not state.alarms())
    assert all(alarm.text in output for alarm in state.alarms().values())
    assert ("for a reason" in output) == any(group.not_judged for group in state.groups.values())
    ended, output = call("status", "--state", tmp_path, "--json")
    assert ended == code and State.model_validate_json(output) == state


def test_status_shows_failed_runs_and_their_reasons(tmp_path: Path) -> None:
    state, runs = tmp_path / "monitor", tmp_path / "runs"
    PipelineRun.ended("mtorl-train", "SUCCEEDED", {}, "", AT - timedelta(days=2)).write(runs)
    PipelineRun.ended("mtorl-monitor", "SUCCEEDED", {}, "", AT).write(runs)
    for hours in (2, 1):
        why = {"ingest": "the log [has] lost rows\n"}
        PipelineRun.ended("mtorl-train", "FAILED", why, "", AT - timedelta(hours=hours)).write(runs)
    code, output = call("status", "--state", state)
    assert code == 2 and "mtorl-train" in output and NO_CHECK(state=state) in output
    found().write(state / STATE_FILE)
    code, output = call("status", "--state", state)
    assert code == 0, "failed runs do not set the code"
    assert "FAILED mtorl-train" in output and "2 runs" in output and "2025-12-31 00:00" in output
    assert "the log [has]" in output and "MtorlPipelineFailed.md" in output
    assert "mtorl-monitor" not in output
    code, output = call("status", "--state", state, "--json")
    assert State.model_validate_json(output) == found()


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / STATE_FILE).write_text("{")
    check = ("check", "--lake", tmp_path, "--state", tmp_path / "state")
    for arguments, words in (
        (("status", "--state", tmp_path), "no check has been made"),
        (("status", "--state", tmp_path / "broken"), "not a monitor's state"),
        (("check", "--lake", tmp_path, "--state", tmp_path / "broken"), "Move the file away"),
        ((*check, "--dataset", "nope"), "nope"),
        ((*check, "--hours", "5"), "5 neither divides a day nor is a number of whole days"),
        (("accept", "outcomes/x", "--reason", "y", "--state", tmp_path), "no measure of this state"),
        (("accept", "outcomes/x", "--reason", "y", "--state", tmp_path / "broken"), "not a monitor's state"),
    ):
        code, output = call(*arguments)
        assert code == 2 and words in output and output.count("\n") == 1, (arguments, output)


def test_a_missing_log_and_a_full_disk_are_no_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("check", "--lake", tmp_path / "none", "--state", tmp_path / "state")
    code, output = call(*arguments)
    assert code == 6 and "no decisions in" in output
    assert call(*arguments, "--job")[0] == 0, "a finished check is no failed Job"
    with alone(tmp_path / "state"):
        for each in (arguments, ("accept", "outcomes/x", "--reason", "y", "--state", tmp_path / "state")):
            code, output = call(*each)
            assert code == 1 and "is running" in output and output.count("\n") == 1

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    code, output = call(*arguments, "--job")
    assert code == 1 and "No space" in output and str(tmp_path / "state") in output


def test_accept(tmp_path: Path) -> None:
    found("harm").write(tmp_path / STATE_FILE)
    code, output = call("accept", "outcomes/harm", "--reason", "a new contract", "--state", tmp_path)
    assert code == 0 and "accepted: outcomes/harm" in output
    state = State.read(tmp_path / STATE_FILE)
    assert not state.alarms() and state.accepted[0].at > AT - timedelta(days=1)
    assert call("status", "--state", tmp_path)[0] == 0
