"""Protocol v2, over HTTP and gRPC: the same decisions, behind the same gateway."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from serving.router.http.gateway import grpc_server
from tests.serving.router_fixtures import CONTEXT, Harness, instance, kserve, run, with_router


def v2(rows: int = 1, **tensors: Any) -> dict[str, Any]:
    values = {"user_id": ["u1"] * rows, "campaign_id": ["c"] * rows, "context": [json.dumps(CONTEXT)] * rows, **tensors}
    inputs = [
        {"name": n, "datatype": "BYTES", "shape": [len(v)], "data": v} for n, v in values.items() if v is not None
    ]
    return {"inputs": inputs}


@with_router()
async def test_v2_decides_like_v1(h: Harness) -> None:
    for body in (v2(3), {**v2(3), "id": "x1"}):
        response = await h.post("/v2/models/ads/infer", body)
        assert response.status_code == 200, response.text
        answer = response.json()
        outputs = {o["name"]: (o["datatype"], o["shape"], o["data"]) for o in answer["outputs"]}
        assert outputs["channel"] == ("BYTES", [3], ["video"] * 3)
        assert outputs["expose"] == ("BOOL", [3], [True] * 3)
        assert outputs["propensity"] == ("FP64", [3], [0.75] * 3)
        assert outputs["fallback_reason"] == ("BYTES", [3], [""] * 3)
        assert set(outputs) >= {"decision_id", "arm", "expected_reward", "expected_cost"}
        assert answer["id"] == body.get("id", outputs["decision_id"][2][0])
    h.arm.mode = 500
    answer = (await h.post("/v2/models/ads/infer", v2(1, request_id=["r9"]))).json()
    assert {o["name"]: o["data"] for o in answer["outputs"]}["fallback_reason"] == ["model_error"]
    assert h.records()[-1]["request_id"] == "r9"


@with_router()
async def test_optional_fields_and_unknown_numbers(h: Harness) -> None:
    h.arm.mode = lambda _: {"channel": "search", "expose": True}
    baseline = '{"channel": "search", "expose": false}'
    body = v2(1, timestamp=["2020-01-01T12:00:00+01:00"], candidates=['["search"]'], costs=['{"search": 0.1}'])
    body["inputs"] += v2(1, baseline=[baseline])["inputs"][-1:]
    response = await h.post("/v2/models/ads/infer", body)
    outputs = {tensor["name"]: tensor["data"] for tensor in response.json()["outputs"]}
    assert (outputs["channel"], outputs["expose"], outputs["propensity"]) == (["search"], [True], [None])
    (record,) = h.records()
    assert (record["candidates"], record["reserved"]) == (["search"], 0.1)
    assert record["baseline"] == {"channel": "search", "expose": False, "propensity": None}
    assert h.arm.asked[0][1]["window"]["prev_channel"] == [None]  # long before the user's first touchpoint
    for wrong in ({"timestamp": ["2020-01-01"]}, {"costs": ["{"]}):
        assert (await h.post("/v2/models/ads/infer", v2(1, **wrong))).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        v2(1, user_id=None),
        v2(1, extra=["x"]),
        v2(2, user_id=["only one"]),
        v2(1, context=["{"]),
        v2(1, context=["[1]"]),
        v2(1, context=[json.dumps({"hour": 1})]),
        v2(1, user_id=[7]),
        v2(65),
        v2(0),
        {"inputs": []},
        {"inputs": [{"name": "user_id", "datatype": "INT64", "shape": [1], "data": [1]}]},
        {"inputs": [{**v2()["inputs"][0], "shape": [4]}, *v2()["inputs"][1:]]},
        {"inputs": [{"name": "user_id", "datatype": "BYTES", "shape": [1], "data": "u1"}]},
        {"inputs": [{"name": "user_id"}]},
        {"outputs": []},
    ],
)
def test_a_bad_v2_request_is_a_4xx(ask: Any, body: Any) -> None:
    response = ask("/v2/models/ads/infer", body)
    assert 400 <= response.status_code < 500, response.text


def test_a_broken_binary_request_is_a_4xx(ask: Any) -> None:
    for head in (
        b'{"inputs": [{"name": "user_id"}]}',
        b"{}",
        b'{"inputs": 3}',
        b'{"inputs": [{"name": "u", "shape": [9], "datatype": "BYTES", "parameters": {"binary_data_size": 4}}]}',
    ):
        for length in (str(len(head)), "x", "99999"):
            headers = {"content-type": "application/octet-stream", "inference-header-content-length": length}
            response = ask("/v2/models/ads/infer", None, content=head + b"\x09\x00\x00\x00", headers=headers)
            assert 400 <= response.status_code < 500, response.text


def test_a_callers_mistake_leaves_no_traceback_in_the_log(ask: Any, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": "x"}
    assert ask("/v2/models/ads/infer", None, content=b"{}", headers=headers).status_code == 400
    assert ask("/v2/models/ads/infer", {"inputs": [{"name": "user_id"}]}).status_code == 400
    assert ask("/v1/models/ads:explain", {"instances": [instance()]}).status_code == 501
    for absent in ("v1/models/absent:predict", "v2/repository/models/ads/unload", "v2/repository/models/ads/load"):
        assert ask(f"/{absent}", {"instances": [instance()]}).status_code == 404, "also: nobody unloads the model"
    assert not [record for record in caplog.records if record.exc_info]


TOKEN = "0123456789abcdef-token"


def tensors(**texts: str) -> pb.ModelInferRequest:
    inputs = [
        pb.ModelInferRequest.InferInputTensor(
            name=name, datatype="BYTES", shape=[1], contents=pb.InferTensorContents(bytes_contents=[text.encode()])
        )
        for name, text in texts.items()
    ]
    return pb.ModelInferRequest(model_name="ads", id="q1", inputs=inputs)


def raw(**texts: str) -> pb.ModelInferRequest:
    request = tensors(**texts)
    for tensor in request.inputs:
        tensor.ClearField("contents")
        text = texts[tensor.name].encode()
        request.raw_input_contents.append(len(text).to_bytes(4, "little") + text)
    return request


@with_router()
async def test_grpc_takes_only_so_many_connections(h: Harness) -> None:
    async with grpc_server(kserve(), h.gateway, "127.0.0.1", 0) as server:
        connections = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(101)]
        reads = [asyncio.create_task(reader.read(1)) for reader, _ in connections]
        # The server of HTTP/2 speaks first, or closes.
        done, _ = await asyncio.wait(reads, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        while not any(read.result() == b"" for read in done):
            done, _ = await asyncio.wait(set(reads) - done, timeout=60, return_when=asyncio.FIRST_COMPLETED)
            assert done, "none of the connections was closed"
        for (_, writer), read in zip(connections, reads, strict=True):
            read.cancel()
            writer.close()


def test_grpc_passes_the_same_gateway(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Other faults of a call: tests/serving/predictor/test_grpc.py."""
    (tmp_path / "token.txt").write_text(TOKEN)
    good = {"user_id": "u1", "campaign_id": "spring", "context": orjson.dumps(CONTEXT).decode()}
    metadata = [("authorization", f"Bearer {TOKEN}")]

    async def scenario(h: Harness) -> None:
        await h.post("/v1/models/ads:predict", {"instances": [instance()]})  # registers the model
        large = [("grpc.max_metadata_size", 1 << 20), ("grpc.absolute_max_metadata_size", 1 << 20)]
        async with (
            grpc_server(kserve(), h.gateway, "127.0.0.1", 0) as server,
            grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=large) as channel,
        ):
            stub = GRPCInferenceServiceStub(channel)

            async def fails(request: pb.ModelInferRequest, given: Any, code: grpc.StatusCode) -> None:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.ModelInfer(request, metadata=given)
                assert caught.value.code() == code, caught.value

            for request in (tensors(**good), raw(**good)):
                answer = await stub.ModelInfer(request, metadata=metadata)
                found = {output.name: output for output in answer.outputs}
                assert found["channel"].contents.bytes_contents == [b"video"]
            assert len(h.records()) == 2
            await stub.ModelInfer(tensors(**good, request_id="r1"), metadata=metadata)
            other = {**good, "context": orjson.dumps({**CONTEXT, "hour": 3}).decode(), "request_id": "r1"}
            await fails(tensors(**other), metadata, grpc.StatusCode.ALREADY_EXISTS)
            await fails(tensors(**good), None, grpc.StatusCode.UNAUTHENTICATED)
            await fails(tensors(user_id="u1"), metadata, grpc.StatusCode.INVALID_ARGUMENT)
            await fails(tensors(**{**good, "context": "{"}), metadata, grpc.StatusCode.INVALID_ARGUMENT)
            await fails(tensors(user_id="x" * 5000), metadata, grpc.StatusCode.RESOURCE_EXHAUSTED)
            await fails(tensors(**good), [*metadata, ("x", "y" * 40_000)], grpc.StatusCode.RESOURCE_EXHAUSTED)
            h.router.health.waiting_for = "a store"
            await fails(tensors(**good), metadata, grpc.StatusCode.UNAVAILABLE)
            h.router.health.waiting_for = ""
            h.gateway.decisions.limit = 0
            await fails(tensors(**good), metadata, grpc.StatusCode.RESOURCE_EXHAUSTED)

    run(scenario, tmp_path, auth={"kind": "token", "file": "token.txt"}, max_body_bytes=4096)
    assert not [record for record in caplog.records if record.exc_info]
