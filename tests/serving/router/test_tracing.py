import contextlib
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from serving.router.ops import tracing
from tests.lakes import id_of
from tests.serving.router_fixtures import Harness, event, instance, running
from tests.serving.router_process import Process
from tests.waiting import until

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"
ALL = {"endpoint": "http://collector", "share": 1.0}
NONE = {"endpoint": "http://collector", "share": 0.0}
PREDICT = "/v1/models/ads:predict"


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Replace the collector by an exporter in memory, which has all spans once the router has stopped."""
    memory = InMemorySpanExporter()
    monkeypatch.setattr(tracing, "_exporter", lambda endpoint: memory)
    return memory


async def traced(h: Harness, traceparent: str | None = SAMPLED, *instances: dict[str, Any]) -> list[dict[str, Any]]:
    headers = {} if traceparent is None else {"traceparent": traceparent}
    response = await h.post(PREDICT, None, json={"instances": instances or [instance()]}, headers=headers)
    assert response.status_code == 200, response.text
    predictions: list[dict[str, Any]] = response.json()["predictions"]
    return predictions


def names(collected: InMemorySpanExporter) -> list[str]:
    return sorted(span.name for span in collected.get_finished_spans())


def one(collected: InMemorySpanExporter, name: str) -> ReadableSpan:
    (span,) = (span for span in collected.get_finished_spans() if span.name == name)
    return span


def said(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_the_stages_of_a_decision_belong_to_the_callers_trace(
    tmp_path: Path, collected: InMemorySpanExporter
) -> None:
    async with running(tmp_path, tracing=NONE) as h:
        (answer,), (sent,) = await traced(h), h.arm.traceparents
    root = one(collected, "decide")
    assert root.kind is SpanKind.SERVER and root.parent is not None
    assert (f"{root.parent.span_id:016x}", root.parent.is_remote) == (CALLER, True)
    assert names(collected) == ["decide", "features", "ledger", "log", "model"]
    assert root.context is not None
    for span in collected.get_finished_spans():
        assert span.context is not None and f"{span.context.trace_id:032x}" == TRACE
        assert span is root or (span.parent is not None and span.parent.span_id == root.context.span_id)
        assert span.start_time is not None and span.end_time is not None and span.status.status_code is StatusCode.UNSET
    model = one(collected, "model")
    assert model.context is not None and sent == f"00-{TRACE}-{model.context.span_id:016x}-01"
    decision = {"mtorl.decision_id": answer["decision_id"], "mtorl.experiment": "test", "mtorl.arm": answer["arm"]}
    decision["mtorl.channels"] = 2
    assert said(root) == {**decision, "http.response.status_code": 200}
    assert all(said(one(collected, stage)) == decision for stage in ("features", "model", "ledger", "log"))
    assert root.resource.attributes["service.name"] == "mtorl-router"


async def test_no_span_contains_user_data_or_amounts(tmp_path: Path, collected: InMemorySpanExporter) -> None:
    async with running(tmp_path, tracing=ALL) as h:
        secret = instance("the-user", campaign_id="the-campaign", costs={"video": 0.0421}, request_id="the-request")
        headers = {"traceparent": SAMPLED, "authorization": "Bearer the-token", "baggage": "user=the-user"}
        for mode in ("ok", 500, b"the-user"):
            h.arm.mode = mode
            body = {"instances": [{**secret, "request_id": f"the-request-{mode!r}"}]}
            (answer,) = (await h.post(PREDICT, None, json=body, headers=headers)).json()["predictions"]
            assert (answer["fallback_reason"] is None) == (mode == "ok")
        await h.post(PREDICT, None, json={"instances": [{**secret, "the-user": 1}]}, headers=headers)
        await h.post("/v1/the-user", None, json={}, headers=headers)
        report = {"outcomes": [event(id_of("the-decision"), value=0.0421, event_id="the-event")]}
        assert (await h.post("/v1/outcomes", None, json=report, headers=headers)).status_code == 200
    text = " ".join(span.to_json() for span in collected.get_finished_spans())
    assert len(names(collected)) > 15 and "model_error" in text
    for word in ("the-", "0.0421", "Bearer"):
        assert word not in text
    # The failed stage's span must name the kind of fault.
    _, model, _ = (span for span in collected.get_finished_spans() if span.name == "model")
    assert model.status.status_code is StatusCode.ERROR and model.status.description is None and not model.events
    assert said(model)["error.type"] == "ArmError"
    for name in ("log", "decide"):
        _, found, *_ = (span for span in collected.get_finished_spans() if span.name == name)
        assert said(found)["mtorl.fallback_reason"] == "model_error"
    assert found.status.status_code is StatusCode.UNSET, "the caller got its answer"


async def test_traces_of_bad_and_unauthenticated_requests(tmp_path: Path, collected: InMemorySpanExporter) -> None:
    (tmp_path / "token.txt").write_text("right-right-right\n")
    async with running(tmp_path, tracing=NONE, auth={"kind": "token", "file": "token.txt"}) as h:
        for token, status in (("right-right-right", 400), ("wrong-wrong-wrong", 401)):
            headers = {"traceparent": SAMPLED, "authorization": f"Bearer {token}"}
            assert (await h.post(PREDICT, None, json={}, headers=headers)).status_code == status
    assert names(collected) == ["decide"]
    assert said(one(collected, "decide")) == {"http.response.status_code": 400}


@pytest.mark.parametrize(("traceparent", "share", "sampled"), [(NOT_SAMPLED, 1.0, 0), (None, 0.0, 0), (None, 1.0, 1)])
async def test_the_caller_or_else_the_share_decides_whether_a_request_is_traced(
    tmp_path: Path, collected: InMemorySpanExporter, traceparent: str | None, share: float, sampled: int
) -> None:
    async with running(tmp_path, tracing={**ALL, "share": share}) as h:
        await traced(h, traceparent, *(instance(f"user-{i}") for i in range(8)))
        assert {int(sent[-2:], 16) & 1 for sent in h.arm.traceparents} == {sampled}
    # Each arm decides for some of the users, so most stages occur twice.
    stages = ["decide", *["features", "model", "ledger", "log"] * 2]
    assert names(collected) == sorted(stages if sampled else [])
    logged = [said(span)["mtorl.decision_ids"] for span in collected.get_finished_spans() if span.name == "log"]
    assert sum(map(len, logged)) == 8 * sampled, "the decision id in a log line leads to its trace"


async def test_a_shadow_decision_belongs_to_the_trace_of_the_answer(
    tmp_path: Path, collected: InMemorySpanExporter
) -> None:
    baseline = {"channel": "search", "expose": True, "propensity": 1.0}
    arms = [{"name": "incumbent", "weight": 0.5, "policy": "baseline"}, {"name": "challenger", "weight": 0.5}]
    async with running(tmp_path, changes={"arms": arms, "stage": "shadow"}, tracing=NONE) as h:
        for mode, traceparent in (("ok", SAMPLED), ("ok", None), (500, SAMPLED)):
            h.arm.mode = mode
            before = len(list(h.spool.read("shadow")))
            await traced(h, traceparent, instance(baseline=baseline))
            await until(lambda before=before: len(list(h.spool.read("shadow"))) == before + 1)
    spans = collected.get_finished_spans()
    roots = {span.context.span_id: span for span in spans if span.name == "decide" and span.context}
    well, broken = (span for span in spans if span.name == "shadow")
    for span in (well, broken):
        assert span.parent is not None
        root = roots.pop(span.parent.span_id)
        assert said(span)["mtorl.decision_id"] == said(root)["mtorl.decision_id"]
        assert (said(root)["mtorl.arm"], said(span)["mtorl.arm"]) == ("incumbent", "challenger")
    assert not roots
    assert "error.type" not in said(well) and said(broken)["error.type"] == "ArmError"


async def test_a_call_shared_by_traces_is_linked_to_each(collected: InMemorySpanExporter) -> None:
    tracing.start(tracing.Tracing(endpoint="http://collector", share=0.0))
    try:
        with tracing.request("decide", [(b"traceparent", NOT_SAMPLED.encode())]):
            unrecorded = tracing.here()
        with tracing.request("decide", [(b"traceparent", SAMPLED.encode())]), tracing.span("first"):
            outer = tracing.here()
            with tracing.span("second"):
                sent = tracing.outgoing([unrecorded, outer, tracing.here()])["traceparent"]
    finally:
        await tracing.stop()
    first, second = one(collected, "first"), one(collected, "second")
    assert first.context is not None and sent.split("-")[2] == f"{first.context.span_id:016x}"
    assert not first.links and [link.context.span_id for link in second.links] == [first.context.span_id]


async def test_without_the_setting_nothing_is_sent(tmp_path: Path) -> None:
    async with running(tmp_path) as h:
        await traced(h)
        assert len(h.arm.asked) == 1 and not h.arm.traceparents


class Collector(BaseHTTPRequestHandler):
    """A collector that never finishes its answer, but sends bytes so often that no read times out."""

    received: list[tuple[str, str | None, list[str]]]

    def do_POST(self) -> None:
        sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
        spans = [span.name for group in sent.resource_spans for scope in group.scope_spans for span in scope.spans]
        self.received.append((self.path, self.headers["authorization"], spans))
        with contextlib.suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nx: ")
            while True:
                self.wfile.write(b"x")
                time.sleep(0.2)


@pytest.mark.integration
def test_a_slow_collector_delays_neither_decisions_nor_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20of-the-collector")
    Collector.received = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{collector.server_address[1]}"
        with Process(folder, tracing={"endpoint": url, "share": 0.0}) as process:
            for turn in range(20):
                (answer,) = process.predict(instance(f"u{turn}"), headers={"traceparent": SAMPLED})
                assert answer["fallback_reason"] is None
            process.router.send_signal(signal.SIGTERM)
            assert process.router.wait(120) == 0, "otherwise the router would wait for the collector forever"
        collector.shutdown()
    path, authorization, spans = Collector.received[0]
    assert (path, authorization) == ("/v1/traces", "Bearer of-the-collector")
    assert set(spans) == {"decide", "features", "ledger", "log", "model"}
    assert "of-the-collector" not in (folder / "router.log").read_text()
