"""Tests that protocol v2 gives the same decisions as v1."""

import json
from typing import Any

import pytest

from tests.serving.router_fixtures import CONTEXT, Harness, instance, with_router


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
    explained = ask("/v1/models/ads:explain", {"instances": [instance()]})
    assert explained.status_code == 501 and explained.json().keys() == {"error", "code", "values"}
    for absent in ("v1/models/absent:predict", "v2/repository/models/ads/unload", "v2/repository/models/ads/load"):
        assert ask(f"/{absent}", {"instances": [instance()]}).status_code == 404, "and callers can't unload the model"
    assert not [record for record in caplog.records if record.exc_info]
