"""How a run ended, for people and for the monitor's exporter."""

from __future__ import annotations

from pathlib import Path

import pytest
from kfp.dsl import PipelineTaskFinalStatus

from components.notify import notify
from monitoring.pipeline_runs import newest_runs
from mtorl.log.touchpoints import LogError
from mtorl.runtime import run_notes
from mtorl.runtime.step import step


def status(state: str) -> PipelineTaskFinalStatus:
    return PipelineTaskFinalStatus(state, "run", "exit-handler-1", 1 if state == "FAILED" else None, "it failed")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(run_notes.RUNS, str(tmp_path))
    monkeypatch.setenv(run_notes.RUN_ID, "run-1")
    monkeypatch.setattr("sys.argv", ["kfp", "--function_to_execute", "build_features"])
    return str(tmp_path)


def test_a_failed_run_says_which_step_could_not_go_on_and_why(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), step(LogError):
        raise LogError("the log has no rows")
    said = notify.python_func("mtorl-train", run, status("FAILED"))
    assert said == "mtorl-train FAILED; build-features: the log has no rows"
    assert said in capsys.readouterr().out
    (kept,) = newest_runs(Path(run))
    assert kept.failed and kept.run == "run-1" and kept.why == {"build-features": "the log has no rows"}
    assert kept.succeeded is None and kept.failed_in_a_row == 1


def test_a_step_that_succeeded_when_it_was_tried_again_is_no_reason(run: str) -> None:
    with pytest.raises(ZeroDivisionError), step():
        raise ZeroDivisionError("once")
    with step():
        pass
    assert notify.python_func("mtorl-train", run, status("SUCCEEDED")) == "mtorl-train SUCCEEDED"
    (kept,) = newest_runs(Path(run))
    assert not kept.failed and kept.why == {} and kept.succeeded == kept.at


def test_a_pod_that_was_killed_could_say_nothing(run: str) -> None:
    assert notify.python_func("mtorl-train", run, status("FAILED")) == "mtorl-train FAILED; run: it failed"


def test_without_a_folder_it_only_says_so() -> None:
    assert notify.python_func("mtorl-train", "", status("SUCCEEDED")) == "mtorl-train SUCCEEDED"
