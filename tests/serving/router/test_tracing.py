"""Traces of requests: their spans, who decides which are recorded, and what a span may say."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferRequest
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from serving.router.http.grpc_gateway import grpc_server
from serving.router.ops import tracing
from tests.repository import ROOT
from tests.serving.router_fixtures import Harness, instance, kserve, run

pytestmark = pytest.mark.filterwarnings("ignore:ORJSONResponse is deprecated")

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"
ALL = {"endpoint": "http://collector", "share": 1.0}
NONE = {"endpoint": "http://collector", "share": 0.0}
PREDICT = "/v1/models/ads:predict"


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """In place of a collector; the spans are complete once the router has ended."""
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


def test_the_stages_of_a_decision_are_parts_of_its_callers_trace(
    tmp_path: Path, collected: InMemorySpanExporter
) -> None:
    answers: list[dict[str, Any]] = []

    async def scenario(h: Harness) -> None:
        answers.extend(await traced(h))
        (sent,) = h.arm.traceparents
        assert sent.startswith(f"00-{TRACE}-") and int(sent[-2:], 16) & 1

        # The arm's server is a part of the stage that asks it.
        answers.append({"asked_by": sent.split("-")[2]})

    run(scenario, tmp_path, tracing=NONE)
    answer, asked = answers
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
    assert model.context is not None and f"{model.context.span_id:016x}" == asked["asked_by"]

    decision = {"mtorl.decision_id": answer["decision_id"], "mtorl.experiment": "test", "mtorl.arm": answer["arm"]}
    decision["mtorl.channels"] = 2
    assert said(root) == {**decision, "http.response.status_code": 200}
    assert said(one(collected, "features")) == {}
    assert said(model) == {"mtorl.experiment": "test", "mtorl.arm": answer["arm"], "mtorl.decisions": 1}
    assert said(one(collected, "ledger")) == said(one(collected, "log")) == decision
    assert root.resource.attributes["service.name"] == "mtorl-router"


def test_a_request_for_several_decisions_asks_each_arm_and_logs_each_decision(
    tmp_path: Path, collected: InMemorySpanExporter
) -> None:
    answers: list[dict[str, Any]] = []

    async def scenario(h: Harness) -> None:
        answers.extend(await traced(h, None, *(instance(f"user-{i}") for i in range(8))))

    run(scenario, tmp_path, tracing=ALL)
    arms = sorted({answer["arm"] for answer in answers})
    assert len(arms) == 2
    assert names(collected) == sorted(["decide", *["features", "model"] * 2, *["ledger", "log"] * 8])
    assert said(one(collected, "decide")) == {"mtorl.decisions": 8, "http.response.status_code": 200}
    spans = collected.get_finished_spans()
    assert sorted(said(span)["mtorl.arm"] for span in spans if span.name == "model") == arms
    logged = {said(span)["mtorl.decision_id"] for span in spans if span.name == "log"}
    assert logged == {answer["decision_id"] for answer in answers}


def test_no_span_says_anything_of_a_user_or_of_money(tmp_path: Path, collected: InMemorySpanExporter) -> None:
    async def scenario(h: Harness) -> None:
        secret = instance("the-user", campaign_id="the-campaign", costs={"video": 0.0421}, request_id="the-request")
        headers = {"traceparent": SAMPLED, "authorization": "Bearer the-token", "baggage": "user=the-user"}
        for mode in ("ok", 500, b"the-user"):
            h.arm.mode = mode
            body = {"instances": [{**secret, "request_id": f"the-request-{mode!r}"}]}
            (answer,) = (await h.post(PREDICT, None, json=body, headers=headers)).json()["predictions"]
            assert (answer["fallback_reason"] is None) == (mode == "ok")
        await h.post(PREDICT, None, json={"instances": [{**secret, "the-user": 1}]}, headers=headers)
        await h.post("/v1/the-user", None, json={}, headers=headers)
        event = {"event_id": "the-event", "decision_id": "the-decision", "kind": "cost", "value": 0.0421}
        report = {"outcomes": [{**event, "event_time": "2026-01-01T12:00:00Z"}]}
        assert (await h.post("/v1/outcomes", None, json=report, headers=headers)).status_code == 200

    run(scenario, tmp_path, tracing=ALL)
    text = " ".join(span.to_json() for span in collected.get_finished_spans())
    assert len(names(collected)) > 15 and "model_error" in text
    for word in ("the-", "0.0421", "Bearer"):
        assert word not in text


def test_a_fault_is_named_where_it_happened(tmp_path: Path, collected: InMemorySpanExporter) -> None:
    async def scenario(h: Harness) -> None:
        h.arm.mode = 500
        (answer,) = await traced(h)
        assert answer["fallback_reason"] == "model_error"

    run(scenario, tmp_path, tracing=NONE)
    model, root = one(collected, "model"), one(collected, "decide")
    assert model.status.status_code is StatusCode.ERROR and model.status.description is None and not model.events
    assert said(model)["error.type"] == "ArmError"
    assert said(one(collected, "log"))["mtorl.fallback_reason"] == said(root)["mtorl.fallback_reason"] == "model_error"
    assert root.status.status_code is StatusCode.UNSET, "the caller got its answer"


def test_a_caller_who_is_wrong_or_unknown(tmp_path: Path, collected: InMemorySpanExporter) -> None:
    """A bad request is traced with its status; who has no token decides nothing about our traces."""
    (tmp_path / "token.txt").write_text("right-right-right\n")

    async def scenario(h: Harness) -> None:
        for token, status in (("right-right-right", 400), ("wrong-wrong-wrong", 401)):
            headers = {"traceparent": SAMPLED, "authorization": f"Bearer {token}"}
            assert (await h.post(PREDICT, None, json={}, headers=headers)).status_code == status

    run(scenario, tmp_path, tracing=NONE, auth={"kind": "token", "file": "token.txt"})
    assert names(collected) == ["decide"]
    assert said(one(collected, "decide")) == {"http.response.status_code": 400}


def test_a_request_that_finds_no_room_is_an_error(
    tmp_path: Path, collected: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(h: Harness) -> None:
        h.arm.mode = "hold"
        held = asyncio.create_task(h.predict())
        await h.until(lambda: h.router.decision_admission.inside == 1)
        monkeypatch.setattr(type(h.router.decision_admission), "full", True)
        monkeypatch.setattr(h.router.decision_admission, "refusal_seconds", 0.0)
        response = await h.post(PREDICT, None, json={"instances": [instance()]}, headers={"traceparent": SAMPLED})
        assert response.status_code == 429
        h.arm.release.set()
        await held

    run(scenario, tmp_path, tracing=NONE, max_in_flight=1)
    assert said(one(collected, "decide")) == {"error.type": "Saturated"}


def test_the_caller_decides_whether_its_request_is_traced(tmp_path: Path, collected: InMemorySpanExporter) -> None:
    async def scenario(h: Harness) -> None:
        await traced(h, NOT_SAMPLED)
        (sent,) = h.arm.traceparents
        assert sent.startswith(f"00-{TRACE}-") and not int(sent[-2:], 16) & 1, "nobody behind it records it, either"

    run(scenario, tmp_path, tracing=ALL)
    assert not collected.get_finished_spans()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_of_other_requests_the_share_is_traced(tmp_path: Path, collected: InMemorySpanExporter, share: float) -> None:
    async def scenario(h: Harness) -> None:
        await traced(h, None)
        assert [int(sent[-2:], 16) & 1 for sent in h.arm.traceparents] == [int(share)]

    run(scenario, tmp_path, tracing={**ALL, "share": share})
    assert names(collected).count("decide") == int(share)
    assert not share or one(collected, "decide").parent is None


@pytest.mark.parametrize(
    "rubbish",
    [
        "",
        "rubbish",
        "-" * 55,
        f"00-{TRACE}-{CALLER}",
        f"00-{TRACE}-{CALLER}-01-more",
        f"00-{TRACE[:-1]}-{CALLER}-01",
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{CALLER}-zz",
        f"ff-{TRACE}-{CALLER}-01",
        f"00-{'g' * 32}-{CALLER}-01",
        "\u00e4" * 55,
        "00-" * 10_000,
    ],
)
def test_a_traceparent_that_is_none_is_ignored(rubbish: str, collected: InMemorySpanExporter) -> None:
    headers = [(b"traceparent", rubbish.encode()), (b"tracestate", b"\xff=\xff,,=,"), (b"x", b"y")]

    async def scenario() -> None:
        for share in (1.0, 0.0):  # the exporter in memory takes no more once it was shut down
            tracing.start(tracing.Tracing(endpoint="http://collector", share=share))
            with tracing.request("decide", headers) as span:
                assert span.is_recording() == bool(share)
            await tracing.stop()

    asyncio.run(scenario())
    context = one(collected, "decide").context
    assert context is not None and f"{context.trace_id:032x}" != TRACE


def test_the_shadow_belongs_to_the_trace_of_the_answer(tmp_path: Path, collected: InMemorySpanExporter) -> None:
    baseline = {"channel": "search", "expose": True, "propensity": 1.0}
    arms = [{"name": "incumbent", "weight": 0.5, "policy": "baseline"}, {"name": "challenger", "weight": 0.5}]

    async def scenario(h: Harness) -> None:
        for mode, traceparent in (("ok", SAMPLED), ("ok", None), (500, SAMPLED)):
            h.arm.mode = mode
            before = len(list(h.spool.read("shadow")))
            await traced(h, traceparent, instance(baseline=baseline))
            await h.until(lambda before=before: len(list(h.spool.read("shadow"))) == before + 1)

    run(scenario, tmp_path, changes={"arms": arms, "stage": "shadow"}, tracing=NONE)
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


def test_outcomes_are_logged_and_settled(tmp_path: Path, collected: InMemorySpanExporter) -> None:
    async def scenario(h: Harness) -> None:
        (answer,) = await h.predict()
        event = {"event_id": "e", "decision_id": answer["decision_id"], "kind": "cost", "value": 0.01}
        body = {"outcomes": [{**event, "event_time": "2026-01-01T12:00:00Z"}]}
        assert (await h.post("/v1/outcomes", None, json=body, headers={"traceparent": SAMPLED})).status_code == 200

    run(scenario, tmp_path, tracing=NONE)
    root = one(collected, "outcomes")
    assert names(collected) == ["ledger", "log", "outcomes"] and root.context is not None
    parents = [one(collected, name).parent for name in ("ledger", "log")]
    assert [parent.span_id for parent in parents if parent] == [root.context.span_id] * 2


def test_grpc_is_traced_as_well(tmp_path: Path, collected: InMemorySpanExporter) -> None:
    async def scenario(h: Harness) -> None:
        async with (
            grpc_server(kserve(), h.gateway, "127.0.0.1", 0) as server,
            grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
        ):
            call = GRPCInferenceServiceStub(channel).ModelInfer
            with pytest.raises(grpc.aio.AioRpcError):  # no such model
                await call(ModelInferRequest(model_name="absent"), metadata=[("traceparent", SAMPLED)])

    run(scenario, tmp_path, tracing=NONE)
    root = one(collected, "decide")
    assert root.context is not None and f"{root.context.trace_id:032x}" == TRACE
    assert said(root) == {"error.type": "ModelNotFound"}


def test_a_call_that_traces_share_belongs_to_one_and_is_linked_to_the_others(
    collected: InMemorySpanExporter,
) -> None:
    async def scenario() -> str:
        tracing.start(tracing.Tracing(endpoint="http://collector", share=0.0))
        try:
            with tracing.request("decide", [(b"traceparent", NOT_SAMPLED.encode())]):
                unrecorded = tracing.here()
            with (
                tracing.request("decide", [(b"traceparent", SAMPLED.encode())]),
                tracing.span("first"),
            ):
                first = tracing.here()
                with tracing.span("second"):
                    return tracing.outgoing([unrecorded, first, tracing.here()])["traceparent"]
        finally:
            await tracing.stop()

    sent = asyncio.run(scenario())
    first, second = one(collected, "first"), one(collected, "second")
    assert first.context is not None and sent.split("-")[2] == f"{first.context.span_id:016x}"
    assert not first.links and [link.context.span_id for link in second.links] == [first.context.span_id]


def test_without_the_setting_nothing_is_imported_and_nothing_is_sent(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from tests.serving.router_fixtures import run

async def scenario(h):
    await h.post({PREDICT!r}, None, json={{"instances": [{instance()!r}]}}, headers={{"traceparent": {SAMPLED!r}}})
    assert len(h.arm.asked) == 1 and not h.arm.traceparents

run(scenario, Path({str(tmp_path)!r}))
imported = [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]
assert not imported, imported
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_without_the_packages_the_setting_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(tracing.SettingsError, match=r"tracing: .*pip install"):
        tracing.start(tracing.Tracing(endpoint="http://collector"))
