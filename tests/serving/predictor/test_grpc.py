"""The predictor over gRPC: the answers of HTTP's protocol v2, passes that calls share, and faults in gRPC's words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from serving.grpc_v2 import GrpcServer
from serving.kserve_sdk import InferInput, InferRequest
from serving.predictor.predictor import Predictor, PredictorServer
from tests.serving.handler_fixtures import Network, item, made
from tests.serving.router_fixtures import in_loop

LARGEST = 20_000  # bytes of a message
CALLERS = 20


class Running(NamedTuple):
    server: GrpcServer
    model: Predictor
    network: Network
    stub: GRPCInferenceServiceStub


@asynccontextmanager
async def predictor() -> AsyncIterator[Running]:
    model, network = Predictor("challenger", Path("nowhere")), Network()
    model.handler, model.ready = made(network.predict), True
    http = PredictorServer("127.0.0.1", 0)
    http.register_model(model)
    async with (
        GrpcServer(http, "127.0.0.1", 0, LARGEST) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield Running(server, model, network, GRPCInferenceServiceStub(channel))


async def fails(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def asked(*texts: str | bytes, name: str = "challenger", **changes: Any) -> pb.ModelInferRequest:
    content = pb.InferTensorContents(bytes_contents=[t.encode() if isinstance(t, str) else t for t in texts])
    tensor = {"name": "instances", "datatype": "BYTES", "shape": [len(texts)], "contents": content, **changes}
    return pb.ModelInferRequest(model_name=name, id="q1", inputs=[pb.ModelInferRequest.InferInputTensor(**tensor)])


def raw(*texts: str) -> pb.ModelInferRequest:
    """The same with the texts beside the message, as Triton's client sends them."""
    request = asked(*texts, contents=None)
    parts = [text.encode() for text in texts]
    request.raw_input_contents.append(b"".join(len(part).to_bytes(4, "little") + part for part in parts))
    return request


def answers(response: pb.ModelInferResponse) -> list[Any]:
    (output,) = response.outputs
    texts = output.contents.bytes_contents
    assert (output.name, output.datatype, list(output.shape)) == ("decisions", "BYTES", [len(texts)])
    return [json.loads(text) for text in texts]


@in_loop
async def test_its_answers_are_those_of_http_v2() -> None:
    async with predictor() as r:
        texts = [json.dumps(item()), "{", json.dumps(item(hour=3.0, u=0.9, price=0.3, candidates=["search", "video"]))]
        tensor = InferInput(name="instances", datatype="BYTES", shape=[3], data=list(texts))
        over_http = await r.model.predict(InferRequest(model_name="challenger", infer_inputs=[tensor]))
        expected = [json.loads(text) for text in over_http.outputs[0].data]
        assert [list(one) == ["error"] for one in expected] == [False, True, False]
        for request in (asked(*texts), raw(*texts)):
            response = await r.stub.ModelInfer(request)
            assert answers(response) == expected
            assert (response.model_name, response.model_version, response.id) == ("challenger", "abc", "q1")


@in_loop
async def test_no_caller_unloads_a_model_and_a_fault_of_ours_is_internal_without_its_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with predictor() as r:
        for change in (
            r.stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="challenger")),
            r.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="challenger")),
        ):
            assert (await fails(change)).code() == grpc.StatusCode.UNIMPLEMENTED
        assert (await r.stub.ModelReady(pb.ModelReadyRequest(name="challenger"))).ready

        def broken(*_: Any) -> Any:
            raise ValueError("bug")

        monkeypatch.setattr(r.model.handler, "_decisions", broken)
        error = await fails(r.stub.ModelInfer(asked(json.dumps(item()))))
        assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "ValueError: bug")
        assert [record.exc_info for record in caplog.records if record.name == "serving.grpc_v2"]


@in_loop
async def test_callers_at_the_same_time_share_a_pass() -> None:
    async with predictor() as r:
        here, predict = asyncio.Barrier(CALLERS), r.model.predict

        async def together(*arguments: Any, **named: Any) -> Any:
            await here.wait()
            return await predict(*arguments, **named)

        r.model.predict = together  # type: ignore[method-assign]
        requests = [asked(json.dumps(item(hour=float(hour)))) for hour in range(CALLERS)]
        responses = await asyncio.gather(*map(r.stub.ModelInfer, requests))
        assert r.network.calls == 1
        r.model.predict = predict  # type: ignore[method-assign]
        for request, response in zip(requests, responses, strict=True):
            assert answers(response) == answers(await r.stub.ModelInfer(request))


@in_loop
async def test_what_is_in_flight_when_it_stops_is_answered() -> None:
    async with predictor() as r:
        here, goes_on, predict = asyncio.Event(), asyncio.Event(), r.model.predict

        async def held(*arguments: Any, **named: Any) -> Any:
            here.set()
            await goes_on.wait()
            return await predict(*arguments, **named)

        r.model.predict = held  # type: ignore[method-assign]
        first = asyncio.ensure_future(r.stub.ModelInfer(asked(json.dumps(item()))))
        await here.wait()
        stopping = asyncio.create_task(r.server.__aexit__())
        await asyncio.sleep(0)  # it is told to stop
        late = await fails(r.stub.ModelInfer(asked(json.dumps(item()))))
        assert late.code() == grpc.StatusCode.UNAVAILABLE
        goes_on.set()
        assert "channel" in answers(await first)[0]
        await stopping
