"""Logs of steps: which attempt of which container is whose, and what a run without any says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.kfp_errors import RequestError
from pipelines.server import Server
from pipelines.step_logs import last_lines, logs

START = datetime(2026, 11, 29, 3, tzinfo=UTC)


def task(name: str, state: str, minute: int, *pods: str) -> Any:
    children = [SimpleNamespace(pod_name=pod) for pod in pods] or None
    return SimpleNamespace(
        display_name=name,
        state=state,
        start_time=START + timedelta(minutes=minute),
        end_time=None,
        child_tasks=children,
    )


def printed(component: str, words: str) -> str:
    return f"Looking for component `{component}` in --component_module_path\n{words}\n"


TASKS = [
    task("root", "FAILED", 0),
    task("fingerprint", "SUCCEEDED", 1),
    task("fingerprint-driver", "SUCCEEDED", 1),
    task("executor", "SUCCEEDED", 1, "pod-a"),
    task("train-challenger", "FAILED", 2),
    task("train-challenger-driver", "SUCCEEDED", 2),
    task("executor", "FAILED", 2, "pod-b-0", "pod-b-1"),
    task("ingest", "SUCCEEDED", 3),
    task("ingest-driver", "SUCCEEDED", 3),
    task("executor", "SKIPPED", 3),
]
TEXTS = {
    "pod-a": printed("fingerprint", "the log"),
    "pod-b-0": printed("train_challenger", "the first attempt"),
    "pod-b-1": printed("train_challenger", "the last attempt"),
}


def server(state: str = "FAILED", tasks: list[Any] = TASKS) -> Server:
    client = SimpleNamespace(
        get_run=lambda run_id: SimpleNamespace(state=state, run_details=SimpleNamespace(task_details=tasks))
    )
    made = Server(client, "mtorl")
    made.log = lambda run_id, node: TEXTS[node]  # type: ignore[method-assign]
    return made


def test_by_default_of_all_steps_that_have_failed() -> None:
    (log,) = logs(server(), "run-1")
    assert (log.step, log.ended) == ("train-challenger", True) and "the last attempt" in log.text


def test_of_one_step_whatever_became_of_it() -> None:
    (log,) = logs(server("RUNNING"), "run-1", "fingerprint")
    assert "the log" in log.text and log.ended


def test_a_step_that_was_skipped_has_printed_nothing() -> None:
    (log,) = logs(server(), "run-1", "ingest")
    assert log.text == "" and log.ended


def test_a_step_that_runs_has_not_ended() -> None:
    running = [*TASKS[:4], task("gate", "RUNNING", 5), task("gate-driver", "SUCCEEDED", 5)]
    (log,) = logs(server("RUNNING", running), "run-1", "gate")
    assert log.text == "" and not log.ended


def test_a_step_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(RequestError, match="no step 'gate' so far; it has fingerprint, train-challenger, ingest"):
        logs(server(), "run-1", "gate")
    with pytest.raises(RequestError, match="it has none"):
        logs(server("PENDING", []), "run-1", "gate")


@pytest.mark.parametrize(("count", "end"), [(0, "a\nb\nc\n"), (2, "b\nc\n"), (9, "a\nb\nc\n")])
def test_the_end_of_a_log(count: int, end: str) -> None:
    assert last_lines("a\nb\nc\n", count) == end
