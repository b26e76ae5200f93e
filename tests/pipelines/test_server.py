"""A KFP server, as a client that keeps all in memory: versions by content, parameters in their types, clear errors."""

from __future__ import annotations

import json
import logging
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kfp_server_api import ApiException

from pipelines import server as server_module
from pipelines.kfp_errors import ServerAway, patiently
from pipelines.server import RequestError, Server, ServerError, typed
from tests.pipelines.fake_kfp import SPEC, TRAIN, FakeClient


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def server(client: FakeClient) -> Server:
    return Server(client, "mtorl")


def test_the_same_content_is_uploaded_once(server: Server, tmp_path: Path) -> None:
    first, again = server.upload(TRAIN), server.upload(TRAIN)
    assert first.new and not again.new
    assert first.version == again.version and first.version_id == again.version_id
    changed = tmp_path / "changed.yaml"
    changed.write_text(TRAIN.read_text() + "# another one\n")
    other = server.upload(changed)
    assert other.new and other.pipeline == "mtorl-train" and other.version != first.version
    assert server.newest("mtorl-train").version == other.version


def test_a_file_that_is_no_pipeline_and_a_pipeline_that_is_not_there_are_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: b")
    with pytest.raises(RequestError, match=r"x\.yaml: not a compiled pipeline; mtorl pipeline compile"):
        server.upload(tmp_path / "x.yaml")
    with pytest.raises(RequestError, match="no pipeline 'mtorl-train' on the server: mtorl pipeline upload"):
        server.newest("mtorl-train")


def test_a_run_gets_its_parameters_in_their_types(server: Server, client: FakeClient) -> None:
    given = {"source": "/log", "dataset": "mine", "epochs": "3", "min_lift": "0.25"}
    assert server.start(server.upload(TRAIN), given) == "run-1"
    assert client.run["params"] == {"source": "/log", "dataset": "mine", "epochs": 3, "min_lift": 0.25}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"source": "/log"}, "can't do without: dataset"),
        ({"source": "/log", "dataset": "x", "epoch": "3"}, "no parameter 'epoch'; the pipeline has .*epochs"),
        ({"source": "/log", "dataset": "x", "epochs": "many"}, "parameter epochs: expected a whole number, got 'many'"),
        ({"source": "/log", "dataset": "x", "min_lift": "big"}, "parameter min_lift: expected a number, got 'big'"),
    ],
)
def test_a_wrong_parameter_is_named_before_a_run_starts(given: dict[str, str], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        typed(given, SPEC)


def test_what_the_server_refuses_is_one_line(
    server: Server, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        error = ApiException(status=401, reason="Unauthorized")
        error.body = json.dumps({"message": "Unauthenticated:\n token is expired"})
        raise error

    monkeypatch.setattr(client, "list_pipelines", refuse)
    with pytest.raises(ServerError) as refused:
        server.upload(TRAIN)
    assert str(refused.value).startswith("status 401: Unauthenticated: token is expired; is the token")
    assert "\n" not in str(refused.value)


def test_an_address_where_nobody_answers_is_named() -> None:
    with pytest.raises(ServerError, match=r"http://127\.0\.0\.1:9: no answer .* is --endpoint right"):
        Server.connect("http://127.0.0.1:9", "", "")


def test_a_server_that_is_there_and_not_well_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unwell(*_: Any, **__: Any) -> None:
        logging.exception("Failed to get healthz info")
        raise TimeoutError("Failed getting healthz endpoint after 5 attempts.")

    monkeypatch.setattr("kfp.Client", unwell)
    with pytest.raises(ServerError, match=r"http://kfp: no answer \(TimeoutError\)"):
        Server.connect("http://kfp", "mtorl", "token")
    assert capsys.readouterr().err == ""


def fails(status: int) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise ApiException(status=status, reason="no healthy upstream")

    return fail


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_fault_within_the_server_may_be_over_in_a_moment(
    server: Server, client: FakeClient, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(client, "list_pipelines", fails(status))
    with pytest.raises(ServerAway, match=f"status {status}: no healthy upstream"):
        server.upload(TRAIN)
    monkeypatch.setattr(client, "list_pipelines", fails(404))
    with pytest.raises(ServerError) as refused:
        server.upload(TRAIN)
    assert not isinstance(refused.value, ServerAway)


def test_an_upload_whose_answer_was_lost_is_found_by_the_next_one(
    server: Server, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = client.upload_pipeline_version

    def lost(*given: Any, **more: Any) -> None:
        upload(*given, **more)
        raise ApiException(status=504, reason="Gateway Timeout")

    with monkeypatch.context() as patch:
        patch.setattr(client, "upload_pipeline_version", lost)
        with pytest.raises(ServerAway, match="status 504"):
            server.upload(TRAIN)
    assert not server.upload(TRAIN).new


def test_a_run_whose_answer_was_lost_may_be_there(
    server: Server, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded = server.upload(TRAIN)
    monkeypatch.setattr(client, "run_pipeline", fails(504))
    with pytest.raises(ServerAway, match=r"status 504.*run 'mtorl-train .*' is not known: `mtorl pipeline status`"):
        server.start(uploaded, {"source": "/log", "dataset": "mine"})


def test_a_log_that_is_gone_is_empty_and_a_server_that_is_away_is_said(server: Server, client: FakeClient) -> None:
    api = SimpleNamespace(call_api=fails(404))
    client.runs = SimpleNamespace(api_client=api)  # type: ignore[attr-defined]
    assert server.log("run", "node") == ""
    api.call_api = fails(503)
    with pytest.raises(ServerAway, match="status 503"):
        server.log("run", "node")


def test_a_server_that_takes_a_call_and_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "_SECONDS", (0.1, 0.1))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connected = Server.connect(f"http://127.0.0.1:{silent.getsockname()[1]}", "mtorl", "token")
        with pytest.raises(ServerAway, match="no answer"):
            connected.runs(1)


def test_patience_ends() -> None:
    now, said = [0.0], list[str]()

    def away() -> None:
        raise ServerAway("no answer")

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with pytest.raises(ServerError, match=r"^no answer \(for 20 s\)$"):
        patiently(away, said.append, 5, patience=20, sleep=sleep, clock=lambda: now[0])
    assert said == ["no answer; waits for it"]
