"""`mtorl pipeline` with a server that answers from a list: what is printed, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import pipeline
from cli.main import app
from pipelines import step_logs
from pipelines.kfp_errors import RequestError, ServerAway, ServerError
from pipelines.run_state import RunState, StepState
from pipelines.server import Server, Uploaded
from pipelines.step_logs import StepLog
from tests.pipelines.fake_kfp import TRAIN, FakeScheduler

CREATED = datetime(2026, 11, 27, 6, 21, tzinfo=UTC)
WAITS = StepState("train-challenger", "RUNNING", 3, "no node for it: Insufficient nvidia.com/gpu")


class FakeServer:
    """Answers `look` with one state after the other, or raises it."""

    def __init__(self, *states: RunState | ServerError) -> None:
        self._states: Iterator[RunState | ServerError] = iter(states)
        self.started: dict[str, str] = {}

    def upload(self, path: Path) -> Uploaded:
        return Uploaded(path.stem, "p", f"{path.stem}-0123456789ab", "v", new=path.stem == "new")

    def newest(self, name: str) -> Uploaded:
        if name != "mtorl-train":
            raise RequestError(f"no pipeline {name!r} on the server: mtorl pipeline upload FILE")
        return Uploaded(name, "p", f"{name}-0123456789ab", "v")

    def start(self, uploaded: Uploaded, parameters: dict[str, str]) -> str:
        self.started = parameters
        return "run-1"

    def look(self, run_id: str) -> RunState:
        state = next(self._states)
        if isinstance(state, ServerError):
            raise state
        return state

    def runs(self, count: int) -> list[RunState]:
        return [RunState("run-1", "mtorl-train today", "SUCCEEDED", CREATED)]


def of(state: str, *steps: StepState) -> RunState:
    return RunState("run-1", "mtorl-train today", state, CREATED, steps)


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Any:
    def call(server: FakeServer, *arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(Server, "connect", lambda *_: server)
        monkeypatch.setattr(pipeline, "_POLL_SECONDS", 0)
        answer = CliRunner().invoke(app, ["pipeline", *arguments])
        return answer.exit_code, answer.output

    return call


def test_upload_says_what_was_new(invoke: Any, tmp_path: Path) -> None:
    files = [tmp_path / "new.yaml", tmp_path / "old.yaml"]
    for file in files:
        file.write_text("pipelineInfo: {name: any}")
    assert invoke(FakeServer(), "upload", *map(str, files)) == (
        0,
        "new-0123456789ab: uploaded\nold-0123456789ab: was there\n",
    )


def test_a_file_that_is_no_pipeline_is_named_before_a_server_is_asked(tmp_path: Path) -> None:
    (tmp_path / "rubbish.yaml").write_text("a: b")
    for name in ("rubbish.yaml", "absent.yaml"):
        answer = CliRunner().invoke(app, ["pipeline", "upload", str(tmp_path / name)])
        assert answer.exit_code == 2 and f"{name}: not a compiled pipeline" in answer.output


def test_run_waits_says_each_change_once_and_fails_with_the_run(invoke: Any) -> None:
    ended = StepState("train-challenger", "FAILED", 9, "the loss became NaN")
    server = FakeServer(of("RUNNING", WAITS), of("RUNNING", WAITS), of("FAILED", ended))
    code, output = invoke(server, "run", "mtorl-train", "-p", "source=a=b", "-p", "dataset=mine", "--wait")
    assert server.started == {"source": "a=b", "dataset": "mine"}
    assert code == 1
    assert output.splitlines() == [
        "run run-1 of mtorl-train-0123456789ab",
        "train-challenger     RUNNING  no node for it: Insufficient nvidia.com/gpu",
        "train-challenger     FAILED  the loss became NaN",
        "run run-1: FAILED",
    ]


def test_waiting_outlasts_a_server_that_is_away_for_a_while(invoke: Any) -> None:
    away = ServerAway("status 503: no healthy upstream")
    server = FakeServer(of("RUNNING", WAITS), away, away, of("RUNNING", WAITS), away, of("SUCCEEDED"))
    code, output = invoke(server, "run", "mtorl-train", "--wait")
    assert code == 0
    assert output.splitlines()[1:] == [
        "train-challenger     RUNNING  no node for it: Insufficient nvidia.com/gpu",
        *["status 503: no healthy upstream; waits for it", "the server answers again"] * 2,
        "run run-1: SUCCEEDED",
    ]


def test_who_waits_in_vain_hears_that_the_run_goes_on(invoke: Any) -> None:
    server = FakeServer(of("RUNNING", WAITS), ServerError("status 401: the token is expired"))
    code, output = invoke(server, "run", "mtorl-train", "--wait")
    assert code == 1
    assert output.splitlines()[-1] == (
        "mtorl: status 401: the token is expired; the run goes on without us: mtorl pipeline status run-1"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "other"], "mtorl: no pipeline 'other' on the server"),
        (["run", "mtorl-train", "-p", "source"], "mtorl: -p source: expected NAME=VALUE"),
    ],
)
def test_what_cannot_be_run_is_one_line(invoke: Any, arguments: list[str], words: str) -> None:
    code, output = invoke(FakeServer(), *arguments)
    assert code == 2 and output.startswith(words) and output.count("\n") == 1


def test_status_lists_runs_or_the_steps_of_one(invoke: Any) -> None:
    code, output = invoke(FakeServer(), "status")
    assert code == 0 and "run-1" in output and "SUCCEEDED" in output and "2026-11-27 06:21" in output
    code, output = invoke(FakeServer(of("RUNNING", StepState("ingest", "CACHED", 0), WAITS)), "status", "run-1")
    assert code == 0 and "CACHED" in output
    assert output.splitlines()[-1] == "train-challenger: no node for it: Insufficient nvidia.com/gpu"


def test_status_says_where_else_to_look_if_the_server_knows_of_no_failed_step(invoke: Any) -> None:
    known = StepState("ingest", "SUCCEEDED", 9)
    lost = invoke(FakeServer(of("FAILED", known)), "status", "run-1")[1]
    assert "the server does not know which step has failed" in lost
    for told in (of("SUCCEEDED", known), of("FAILED", known, StepState("gate", "FAILED", 9))):
        assert "does not know" not in invoke(FakeServer(told), "status", "run-1")[1]


def test_a_server_that_refuses_is_a_failure(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer()

    def refuse(count: int) -> None:
        raise ServerError("status 401: Unauthenticated")

    monkeypatch.setattr(server, "runs", refuse)
    assert invoke(server, "status") == (1, "mtorl: status 401: Unauthenticated\n")


SCHEDULE = """
name: shop
runs:
- {name: nightly, pipeline: mtorl-train, cron: "0 3 * * *", parameters: {source: /log, dataset: mine}}
- {name: paused, pipeline: mtorl-train, cron: "0 4 * * *", parameters: {source: /log, dataset: mine}, enabled: false}
"""


def test_schedule_says_what_has_happened_and_what_is_next(invoke: Any, tmp_path: Path) -> None:
    client = FakeScheduler(CREATED)
    server = Server(client, "mtorl")
    server.upload(TRAIN)
    file = tmp_path / "schedule.yaml"
    file.write_text(SCHEDULE)
    code, output = invoke(server, "schedule", str(file), "--dry-run")
    assert code == 0 and "made" in output and client.recurring == {}
    code, output = invoke(server, "schedule", str(file))
    (nightly,) = [line for line in output.splitlines() if "nightly" in line]
    (paused,) = [line for line in output.splitlines() if "paused" in line]
    assert code == 0 and "next (UTC)" in output and "made" in nightly and " 03:00" in nightly and " - " in paused
    code, output = invoke(server, "schedule", str(file))
    assert code == 0 and output.count("was there") == 2 and len(client.recurring) == 2
    file.write_text(SCHEDULE.replace("0 3 * * *", "0 3 * *"))
    code, output = invoke(server, "schedule", str(file))
    assert code == 2 and "schedule.yaml: runs[0].cron: expected minute hour day month weekday" in output


def test_a_schedule_that_is_cut_off_by_the_server_says_to_call_again(
    invoke: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = FakeScheduler(CREATED)
    server = Server(client, "mtorl")
    server.upload(TRAIN)
    file = tmp_path / "schedule.yaml"
    file.write_text(SCHEDULE)

    def away(made: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr(client.recurring_runs, "recurring_run_service_create_recurring_run", away)
    code, output = invoke(server, "schedule", str(file))
    assert code == 1 and output.startswith("mtorl: nightly: ") and output.endswith("it finishes what is half done\n")


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> list[list[StepLog]]:
    """What the logs of a run are, one look after the other."""
    looks: list[list[StepLog]] = []
    monkeypatch.setattr(step_logs, "logs", lambda server, run_id, step="": looks.pop(0))
    return looks


def test_logs_are_of_the_steps_that_have_failed(invoke: Any, printed: list[list[StepLog]]) -> None:
    printed.append([StepLog("ingest", "a\nb\n", True), StepLog("", "c\n", True)])
    assert invoke(FakeServer(), "logs", "run-1", "--tail", "1") == (
        0,
        "==> ingest <==\nb\n==> a step that does not say its name <==\nc\n",
    )
    printed.append([])
    assert invoke(FakeServer(), "logs", "run-1") == (0, "no step has failed\n")
    printed.append([StepLog("ingest", "", True)])
    assert invoke(FakeServer(), "logs", "run-1", "ingest") == (0, "nothing printed\n")


def test_following_prints_each_line_once_until_the_step_ends(invoke: Any, printed: list[list[StepLog]]) -> None:
    texts = [("", False), ("a\nb\n", False), ("a\nb\nc", False), ("another attempt\n", False)]
    ends = [("another attempt\nits end", True)]
    printed += [[StepLog("ingest", text, ended)] for text, ended in texts + ends]
    code, output = invoke(FakeServer(), "logs", "run-1", "ingest", "--follow", "--tail", "1")
    assert (code, output) == (0, "b\nc\n==> another attempt <==\nanother attempt\nits end\n")


def test_following_outlasts_a_server_that_is_away(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([[StepLog("ingest", "a\n", False)], None, [StepLog("ingest", "a\nb\n", True)]])

    def look(*_: Any) -> list[StepLog]:
        if (found := next(answers)) is None:
            raise ServerAway("status 502: bad gateway")
        return found

    monkeypatch.setattr(step_logs, "logs", look)
    code, output = invoke(FakeServer(), "logs", "run-1", "ingest", "--follow")
    assert (code, output) == (0, "a\nstatus 502: bad gateway; waits for it\nthe server answers again\nb\n")


def test_following_needs_a_step(invoke: Any) -> None:
    code, output = invoke(FakeServer(), "logs", "run-1", "--follow")
    assert code == 2 and output.startswith("mtorl: --follow: of which step?")
