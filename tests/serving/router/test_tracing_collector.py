"""Traces leave the router in the background: a collector gets them, and one that does not take them harms nobody."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from serving.router.ops.settings import RouterSettings, SettingsError, Tracing
from tests.serving.router_fixtures import instance, write_settings
from tests.serving.router_process import Process

pytestmark = pytest.mark.filterwarnings("ignore:ORJSONResponse is deprecated")

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.spans: list[Any] = []
        self.services: set[str] = set()
        self.headers: list[dict[str, str]] = []


class _Taking(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
        for group in request.resource_spans:
            about = {attribute.key: attribute.value.string_value for attribute in group.resource.attributes}
            self.server.services.add(about["service.name"])
            for scope in group.scope_spans:
                self.server.spans.extend(scope.spans)
        self.server.headers.append({**dict(self.headers.items()), "path": self.path})
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def collector() -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@contextmanager
def silent_collector() -> Iterator[str]:
    """Its answer comes a byte at a time and never ends: no time limit between two bytes is ever exceeded."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    threading.Thread(target=dribble, args=[listening.accept()[0]], daemon=True).start()
                except OSError:
                    return

        def dribble(connection: socket.socket) -> None:
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
                while True:
                    connection.sendall(b"x")
                    time.sleep(0.2)
            except OSError:
                pass

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.integration
def test_a_collector_gets_the_spans_of_a_real_router(
    feast_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "features").symlink_to(feast_repo)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20of-the-collector")
    with collector() as received:
        with Process(tmp_path, tracing={"endpoint": received.url, "share": 0.0}) as process:
            process.predict(instance("u2"))  # nobody wants a trace of it
            (answer,) = process.predict(instance("u1"), headers=SAMPLED)
            process.router.send_signal(signal.SIGTERM)
            assert process.router.wait(120) == 0
            *_, sent = process.arm.traceparents
        spans = {span.name: span for span in received.spans}
        assert set(spans) == {"decide", "features", "model", "ledger", "log"} and len(received.spans) == 5
        assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
        root = spans.pop("decide")
        assert root.parent_span_id.hex() == CALLER
        assert {span.parent_span_id for span in spans.values()} == {root.span_id}
        assert sent.split("-")[1:3] == [TRACE, spans["model"].span_id.hex()]
        decision = next(a.value.string_value for a in root.attributes if a.key == "mtorl.decision_id")
        assert decision == answer["decision_id"]
        assert received.services == {"mtorl-router"}
        assert {one["path"] for one in received.headers} == {"/v1/traces"}
        assert {one["authorization"] for one in received.headers} == {"Bearer of-the-collector"}
    assert "of-the-collector" not in (tmp_path / "router.log").read_text()


@pytest.mark.integration
def test_a_collector_that_never_answers_holds_up_no_decision_and_no_end(feast_repo: Path, tmp_path: Path) -> None:
    (tmp_path / "features").symlink_to(feast_repo)
    with silent_collector() as url, Process(tmp_path, tracing={"endpoint": url, "share": 1.0}) as process:
        for turn in range(20):
            (answer,) = process.predict(instance(f"u{turn}"))
            assert answer["fallback_reason"] is None
        process.router.send_signal(signal.SIGTERM)
        assert process.router.wait(120) == 0, "the collector would have kept it for ever"


@pytest.mark.parametrize(
    ("tracing", "message"),
    [
        ({}, "tracing: missing field 'endpoint'"),
        ({"endpoint": "otel-collector:4318"}, r"tracing.endpoint: expected the URL of a collector, such as http://"),
        ({"endpoint": "grpc://otel-collector:4317"}, "tracing.endpoint: expected the URL of a collector"),
        ({"endpoint": "http://otel-collector:port"}, "tracing.endpoint: expected the URL of a collector"),
        ({"endpoint": "http://otel-collector:4318/v1/traces"}, "tracing.endpoint: expected the URL of a collector"),
        ({"endpoint": "http://user:s3cret@host"}, r"tracing.endpoint: .*OTEL_EXPORTER_OTLP_HEADERS$"),
        ({"endpoint": "http://c", "share": 1.5}, "tracing.share"),
        ({"endpoint": "http://c", "ratio": 0.5}, "tracing: unknown field 'ratio'"),
        ("http://c", "tracing"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, tracing: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as refused:
        write_settings(tmp_path, "http://x", {}, tracing=tracing)
    assert "s3cret" not in str(refused.value)


def test_the_environment_can_switch_it_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert write_settings(tmp_path, "http://x", {}).tracing is None
    monkeypatch.setenv("MTORL_TRACING", "http://collector:4318")
    assert RouterSettings.load(tmp_path / "router.yaml").tracing == Tracing(endpoint="http://collector:4318")
    given = write_settings(tmp_path, "http://x", {}, tracing={"endpoint": "http://other", "share": 0.5}).tracing
    assert given == Tracing(endpoint="http://collector:4318", share=0.5)
    with pytest.raises(SettingsError, match="tracing"):
        write_settings(tmp_path, "http://x", {}, tracing="on")
