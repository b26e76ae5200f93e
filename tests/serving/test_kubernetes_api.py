import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config

import serving.kubernetes_api as kubernetes_api
from serving.kubernetes_api import Conflict, KubernetesApi, Refused, Unanswered

BODY = {"metadata": {"name": "one"}}


class Server(http.server.ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.statuses: list[int] = []
        self.body: Any = BODY
        self.asked: list[tuple[str, str, str | None, Any]] = []


class Requests(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.asked.append((self.command, self.path, self.headers.get("Content-Type"), body))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        found = self.server.body if status == 200 else {"message": "the webhook denied it"}
        text = found.encode() if isinstance(found, str) else json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, *_: object) -> None: ...


def use(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setattr(client.Configuration, "_default", client.Configuration(host=f"http://127.0.0.1:{port}"))
    monkeypatch.setattr(config, "load_kube_config", lambda: None)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        use(monkeypatch, running.server_address[1])
        yield running
        running.shutdown()


CALLS: dict[str, tuple[Callable[[KubernetesApi], Any], tuple[str, str]]] = {
    "get": (lambda api: api.get("configmaps", "one"), ("GET", "/api/v1/namespaces/ads/configmaps/one")),
    "create": (lambda api: api.create("leases", BODY), ("POST", "/apis/coordination.k8s.io/v1/namespaces/ads/leases")),
    "replace": (
        lambda api: api.replace("experiments", "one", BODY, "status"),
        ("PUT", "/apis/mtorl-kubeflow.github.io/v1alpha1/namespaces/ads/experiments/one/status"),
    ),
    "merge_patch": (
        lambda api: api.merge_patch("inferenceservices", "one", BODY),
        ("PATCH", "/apis/serving.kserve.io/v1beta1/namespaces/ads/inferenceservices/one"),
    ),
    "delete": (
        lambda api: api.delete("trainjobs", "one"),
        ("DELETE", "/apis/trainer.kubeflow.org/v1alpha1/namespaces/ads/trainjobs/one?propagationPolicy=Foreground"),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_request_is_what_kubernetes_expects(server: Server, name: str) -> None:
    call, (method, path) = CALLS[name]
    found = call(KubernetesApi("ads"))
    ((asked, where, content, body),) = server.asked
    assert (asked, where) == (method, path)
    assert content == ("application/merge-patch+json" if name == "merge_patch" else "application/json")
    assert body == (None if name in ("get", "delete") else BODY) and found == (None if name == "delete" else BODY)


def test_lists_and_logs(server: Server) -> None:
    api = KubernetesApi("ads")
    server.body = {"items": [BODY]}
    assert api.list("pods", "job=one") == [BODY]
    server.body = '{"a": "line that is JSON"}\n'
    assert api.log("one", 40) == server.body
    assert [path for _, path, _, _ in server.asked] == [
        "/api/v1/namespaces/ads/pods?labelSelector=job%3Done",
        "/api/v1/namespaces/ads/pods/one/log?tailLines=40",
    ]


NONE = None
MEANS: dict[str, dict[int, Any]] = {
    "get": {404: NONE, 403: Refused, 409: Conflict, 429: Unanswered, 500: Unanswered},
    "create": {404: Refused, 403: Refused, 409: Conflict, 503: Unanswered},
    "replace": {404: Conflict, 409: Conflict, 422: Refused, 500: Unanswered},
    "merge_patch": {400: Refused, 403: Refused, 404: Refused, 409: Conflict, 422: Refused, 504: Unanswered},
    "delete": {404: NONE, 403: Refused, 500: Unanswered},
}


@pytest.mark.parametrize(("name", "status"), [(name, status) for name, means in MEANS.items() for status in means])
def test_each_status_has_its_meaning(server: Server, name: str, status: int) -> None:
    server.statuses = [status]
    call, means = CALLS[name][0], MEANS[name][status]
    if means is None:
        assert call(KubernetesApi("ads")) is None
        return
    with pytest.raises(means, match="webhook denied"):
        call(KubernetesApi("ads"))


def test_calls_are_retried_only_on_request(server: Server) -> None:
    server.statuses = [503]
    assert KubernetesApi("ads", retries=1).get("pods", "one") == BODY
    assert len(server.asked) == 2


def test_a_silent_server_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use(monkeypatch, silent.getsockname()[1])
        with pytest.raises(Unanswered, match="timed out"):
            KubernetesApi("ads", (0.1, 0.1)).list("pods")


def test_a_host_without_a_cluster_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load() -> None:
        raise config.ConfigException("no configuration found")

    monkeypatch.setattr(config, "load_kube_config", load)
    with pytest.raises(Unanswered, match="no configuration found"):
        KubernetesApi("ads")
    monkeypatch.setattr(kubernetes_api, "_NAMESPACE", tmp_path / "namespace")
    monkeypatch.delenv("MTORL_NAMESPACE", raising=False)
    assert kubernetes_api.namespace_of_pod() == "default"
    (tmp_path / "namespace").write_text("ads\n")
    assert kubernetes_api.namespace_of_pod() == "ads"
