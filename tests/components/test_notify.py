"""Tests of the notify step, which records the end of a pipeline run."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl import PipelineTaskFinalStatus
from kubernetes import config

from components.messages import END_UNKNOWN
from components.notify import run_end
from components.notify.component import notify
from monitoring.pipeline_runs import PipelineRun, newest_runs
from mtorl.log.touchpoints import LogError
from mtorl.runtime.step import RUN_ID, RUNS, step
from serving.kubernetes_api import KubernetesApi, Refused
from serving.messages import FORBIDDEN

# The final status and the workflow of real runs on Kubeflow Pipelines 2.17 with Argo 4.0.5.
ENDS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("kfp_ends.json").read_text())
ERROR = "main: Error (exit code 1)"


def status(state: str) -> PipelineTaskFinalStatus:
    return PipelineTaskFinalStatus(state, "run", "exit-handler-1", 1 if state == "FAILED" else None, "it failed")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(RUNS, str(tmp_path))
    monkeypatch.setenv(RUN_ID, "run-1")
    monkeypatch.setattr("sys.argv", ["kfp", "--function_to_execute", "build_features"])
    return str(tmp_path)


@pytest.fixture
def argo(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Fake the API requests for Argo workflows.

    The returned dict maps a workflow's name to its nodes, or to the exception that the request raises.
    """
    workflows: dict[str, Any] = {}

    def get(self: Any, kind: str, name: str) -> Any:
        assert kind == "workflows"
        if isinstance(workflows[name], Exception):
            raise workflows[name]
        nodes = workflows[name]
        return nodes and {"status": {"nodes": {str(number): node for number, node in enumerate(nodes)}}}

    monkeypatch.setattr(config, "load_incluster_config", lambda: None)
    monkeypatch.setattr(KubernetesApi, "get", get)
    return workflows


def ended_on_kfp(run: str, argo: dict[str, Any], monkeypatch: pytest.MonkeyPatch, end: str, found: Any) -> PipelineRun:
    """Run the notify step as on KFP, and return the end that it records.

    `found` is the API server's answer for the workflow: its nodes, or an exception.
    """
    recorded = ENDS[end]
    argo[recorded["node"].partition("(")[0]] = found
    monkeypatch.setenv(run_end.NODE, recorded["node"])
    given = PipelineTaskFinalStatus(recorded["state"], "golden", "exit-handler-1", None, None)
    said = notify.python_func("mtorl-train", run, given)
    (kept,) = newest_runs(Path(run))
    assert said == str(kept)
    return kept


# KFP's code also reports FAILED if an attempt ran out of memory and its retry succeeded. No real run of this kind was
# recorded, so its status is made up.
@pytest.mark.parametrize("state", ["", "FAILED"], ids=["as recorded", "of an attempt before"])
@pytest.mark.parametrize("end", ["succeeded", "ends in a skipped branch", "a pod was deleted, and retried"])
def test_a_run_that_succeeded_on_kfp_is_a_success(
    end: str, state: str, run: str, argo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENDS[end], "state", state or ENDS[end]["state"])
    kept = ended_on_kfp(run, argo, monkeypatch, end, ENDS[end]["nodes"])
    assert kept.state == "SUCCEEDED" and kept.why == {} and kept.failed_in_a_row == 0
    assert kept.successes == [kept.at]


@pytest.mark.parametrize(
    ("end", "why"), [("a step failed", f"bad: {ERROR}"), ("a step was killed", f"killed: {ERROR}")]
)
def test_a_run_that_failed_on_kfp_is_a_failure(
    end: str, why: str, run: str, argo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ended_on_kfp(run, argo, monkeypatch, end, ENDS[end]["nodes"])
    assert kept.failed and kept.why == {"run": why} and kept.successes == []
    again = ended_on_kfp(run, argo, monkeypatch, end, ENDS[end]["nodes"])
    assert again.failed_in_a_row == 1, "a retry of the last step is not another run"


def test_argo_without_retries_of_step_groups() -> None:
    failed = ENDS["a step failed"]
    nodes = [node | {"name": re.sub(r"\(0\)", "", node["name"])} for node in failed["nodes"] if node["type"] == "Pod"]
    node = re.sub(r"\(0\)", "", failed["node"])
    group = {"name": node.partition(".onExit")[0], "type": "DAG", "phase": "Failed"}
    found = run_end.state_of({one["name"]: one for one in (*nodes, group)}, node)
    assert found == ("FAILED", f"bad: {ERROR}")


def test_a_retried_attempt_is_not_the_reason() -> None:
    deleted = ENDS["a pod was deleted, and retried"]
    group = deleted["node"].partition(".onExit")[0]
    nodes = {node["name"]: node | {"phase": "Failed"} if node["name"] == group else node for node in deleted["nodes"]}
    assert run_end.state_of(nodes, deleted["node"]) == ("FAILED", "")


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (Refused(403, "no"), f"Refused: {FORBIDDEN(status=403, reason='no')}"),
        (None, "LookupError"),
        ([{"name": "other"}], "KeyError"),
    ],
    ids=["refused", "gone", "without its nodes"],
)
def test_a_run_with_an_unreadable_end_is_no_success(
    found: Any, why: str, run: str, argo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ended_on_kfp(run, argo, monkeypatch, "succeeded", found)
    assert kept.failed and END_UNKNOWN(error=why) in kept.why["run"]


def test_a_failed_run_names_its_failed_step_and_the_reason(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), step():
        raise LogError("no rows")
    said = notify.python_func("mtorl-train", run, status("FAILED"))
    assert said.split("; ") == ["mtorl-train FAILED", "build-features: no rows"]
    assert said in capsys.readouterr().out
    (kept,) = newest_runs(Path(run))
    assert kept.failed and kept.run == "run-1" and kept.why == {"build-features": "no rows"}
    assert kept.succeeded is None and kept.failed_in_a_row == 1


def test_a_step_whose_retry_succeeded_is_not_the_reason(run: str) -> None:
    with pytest.raises(ZeroDivisionError), step():
        raise ZeroDivisionError("once")
    with step():
        pass
    assert notify.python_func("mtorl-train", run, status("SUCCEEDED")) == "mtorl-train SUCCEEDED"
    (kept,) = newest_runs(Path(run))
    assert not kept.failed and kept.why == {} and kept.succeeded == kept.at
    assert notify.python_func("mtorl-train", "", status("FAILED")).endswith(" FAILED; run: it failed")
