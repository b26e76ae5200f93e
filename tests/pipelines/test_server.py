"""A KFP server, as a client that keeps all in memory: versions by content, parameters in their types, clear errors."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from kfp_server_api import ApiException

from pipelines.server import RequestError, Server, ServerError, typed
from tests.repository import ROOT

TRAIN = ROOT / "manifests" / "pipelines" / "production" / "mtorl-train.yaml"
SPEC = next(yaml.safe_load_all(TRAIN.read_text()))


class FakeClient:
    """The calls of `kfp.Client` that `Server` makes."""

    def __init__(self) -> None:
        self.pipelines = SimpleNamespace(pipeline_service_create_pipeline=self._create)
        self._made: dict[str, str] = {}  # name -> id
        self._uploaded: dict[str, list[Any]] = {}  # pipeline's id -> versions, the newest first
        self.run: dict[str, Any] = {}

    def _create(self, pipeline: Any) -> Any:
        self._made[pipeline.display_name] = f"id-of-{pipeline.display_name}"
        return SimpleNamespace(pipeline_id=self._made[pipeline.display_name])

    def list_pipelines(self, filter: str, namespace: str | None) -> Any:
        assert namespace == "mtorl"
        name = json.loads(filter)["predicates"][0]["stringValue"]
        found = [SimpleNamespace(pipeline_id=self._made[name])] if name in self._made else None
        return SimpleNamespace(pipelines=found)

    def list_pipeline_versions(self, pipeline_id: str, **_: Any) -> Any:
        return SimpleNamespace(pipeline_versions=self._uploaded.get(pipeline_id))

    def upload_pipeline_version(self, path: str, name: str, *, pipeline_id: str) -> Any:
        version = SimpleNamespace(display_name=name, pipeline_version_id=f"id-of-{name}")
        self._uploaded.setdefault(pipeline_id, []).insert(0, version)
        return version

    def get_pipeline_version(self, pipeline_id: str, version_id: str) -> Any:
        return SimpleNamespace(pipeline_spec={"pipeline_spec": SPEC, "platform_spec": {}})

    def create_experiment(self, name: str, namespace: str | None) -> Any:
        return SimpleNamespace(experiment_id=f"{namespace}/{name}")

    def run_pipeline(self, experiment_id: str, name: str, **run: Any) -> Any:
        self.run = run
        return SimpleNamespace(run_id="run-1")


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
