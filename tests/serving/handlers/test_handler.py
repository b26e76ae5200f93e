import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtorl.policy.decision import Forecast, decide
from mtorl.window.window import WindowBatch
from serving import messages
from serving.handlers import policy_handler
from serving.handlers.protocol import MAX_INSTANCES
from tests.serving.handler_fixtures import (
    NAN_HOUR,
    POLICY,
    SPEC,
    Network,
    ask,
    call,
    forecast,
    item,
    made,
    v1,
    v2,
    window,
)


def test_a_decision_equals_that_of_the_decision_rule() -> None:
    (answer,), context = ask(made(), v1(item(10.0, u=0.7), item(3.0, u=0.1)))
    cost = np.full((2, 3), 0.2)
    expected = decide(Forecast([[1, 0, -1], [0.3, 0, -0.3]], np.full((2, 3), 0.1), cost), POLICY, [0.7, 0.1])
    for b, decision in enumerate(answer["predictions"]):
        assert decision == {
            "channel": SPEC.channels[expected.channel_B[b]],
            "propensity": expected.propensity_B[b],
            "channel_probs": dict(zip(SPEC.channels, expected.probs_BC[b], strict=True)),
            "expected_reward": 0.1,
            "expected_cost": 0.2,
            "expose": True,
            "utility": expected.utility_B[b],
            "price": 0.1,
            "prices": dict.fromkeys(SPEC.channels, 0.1),
            "exposure_probs": dict.fromkeys(SPEC.channels, 1.0),
            "expected_rewards": dict.fromkeys(SPEC.channels, 0.1),
            "expected_costs": dict.fromkeys(SPEC.channels, 0.2),
            "model": {"name": "challenger", "version": "abc", "digest": "abcdef"},
        }
    assert context.status == {}
    assert context.content_type == {0: "application/json"}


def test_an_answer_contains_the_distance_of_the_user_from_the_training_users() -> None:
    """If the distance is infinite or NaN, the handler must still decide."""
    handler, network = made(), Network()
    hours = [10.0, NAN_HOUR, 3.0, 5.0]
    found = np.array([1.5, 1.0, 0.75, np.inf], dtype=np.float32)
    handler.artifact.forecast_with_state = lambda batch: (forecast(*network.predict(batch)), found)
    (answer,), _ = ask(handler, v1(*(item(hour) for hour in hours)))
    assert [each.get("state_distance", "none") for each in answer["predictions"]] == [1.5, "none", 0.75, None]
    (without,), _ = ask(made(), v1(*(item(hour) for hour in hours)))
    for one, other in zip(answer["predictions"], without["predictions"], strict=True):
        assert {**one, "state_distance": 0} == {**other, "state_distance": 0}, "only the distance differs"


def test_candidates_and_price_of_an_item_apply_to_that_item_only() -> None:
    dear_items = item(price=100.0), item(price={"search": 100.0})
    (answer,), _ = ask(made(), v1(item(), item(candidates=["video"], price=0), *dear_items, item()))
    free, only, dear, dear_search, same = answer["predictions"]
    assert (only["channel"], only["propensity"], only["utility"]) == ("video", 1.0, 0.1)
    assert only["channel_probs"] == {"search": 0.0, "social": 0.0, "video": 1.0}
    assert (free["expose"], dear["expose"]) == (True, False)
    assert (free["price"], only["price"], dear["price"]) == (0.1, 0.0, 100.0)
    assert dear_search["prices"] == {"search": 100.0, "social": 0.1, "video": 0.1}
    assert dear_search["exposure_probs"] == {"search": 0.0, "social": 1.0, "video": 1.0}
    assert same == free


def test_a_single_candidate_gives_the_budget_decision_with_its_cost_capped() -> None:
    asked = [item(candidates=[channel], u=u) for channel in SPEC.channels for u in (0.0, 0.9)]
    limited = [{**one, "costs": {one["candidates"][0]: 0.001}} for one in asked]
    beside = [{**one, "costs": {"search" if one["candidates"] == ["video"] else "video": 0.001}} for one in asked]
    (answer,), _ = ask(made(), v1(*asked, *limited, *beside))
    found = answer["predictions"]
    assert [one["channel"] for one in found] == [one["candidates"][0] for one in asked] * 3
    assert [one["expected_cost"] for one in found] == [0.2] * 6 + [0.001] * 6 + [0.2] * 6
    assert found[::2] == found[1::2], "the draw does not matter"


def test_fields_that_only_the_router_needs_are_ignored() -> None:
    more = {"user_id": "u1", "campaign_id": "c", "timestamp": "2026-01-01T12:00:00+00:00", "context": {"hour": 1.0}}
    (plain, told), _ = ask(made(), v1(item(price=0.5)), v1({**item(price=0.5), **more, "baseline": None}))
    assert plain == told and "error" not in told["predictions"][0]


def test_all_requests_share_one_forward_pass() -> None:
    """TorchServe has already decoded the body of one request."""
    network = Network()
    texts = [json.dumps(item(hour)) for hour in (2.0, 3.0)]
    (first, second, ready, third), _ = ask(
        made(network.predict), v1(item(1.0)), v2(*texts), {"body": b""}, {"body": {"instances": [item(4.0)]}}
    )
    assert network.calls == 1
    assert ready["ready"] is True
    in_order = [*first["predictions"], *(json.loads(text) for text in second["outputs"][0]["data"])]
    in_order += third["predictions"]
    assert in_order == [ask(made(), v1(item(hour)))[0][0]["predictions"][0] for hour in (1.0, 2.0, 3.0, 4.0)]


def test_v2_has_the_shape_that_clients_expect() -> None:
    (answer, anonymous), _ = ask(made(), v2(json.dumps(item()), request_id="7"), v2(json.dumps(item())))
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("7", "challenger", "abc")
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("decisions", "BYTES", [1])
    assert anonymous["id"] == "request-1"


def without(name: str) -> dict[str, Any]:
    return {k: v for k, v in window().items() if k != name}


BAD_ITEMS = [
    (None, "None"),
    ({"window": window()}, "missing field 'u'"),
    ({"u": 0.5}, "missing field 'window'"),
    (item(prices=1), "prices: unknown field"),
    (item(u=1.0), "u: "),
    (item(price=-1), "price.search: "),
    (item(price=10**400), "price.search: "),
    (item(price=True), "price.search: "),
    (item(price={"search": 1, "social": 1, "video": 1, "radio": 1}), "'radio'"),
    (item(price={"search": 1, "social": -1, "video": 1}), "price.social: "),
    (item(price={"search": 1, "video": "1"}, candidates=["search"]), "price.video: "),
    (item(candidates=[]), "candidates: "),
    (item(candidates=["radio"]), "candidates[0]: "),
    (item(candidates=[["search"]]), "candidates[0]: "),
    (item(costs={"tv": 1}), "costs"),
    (item(costs={"search": -1}), "costs.search: expected a number of at least 0"),
    ({"window": None, "u": 0.5}, "window: "),
    ({"window": without("prev_cost"), "u": 0.5}, "window: prev_cost is missing"),
    ({"window": {**window(), "prev_click": [1]}, "u": 0.5}, "window: prev_click"),
    ({"window": {**window(), "prev_click": [0, 10**400]}, "u": 0.5}, "window: "),
    ({"window": {**window(), "prev_channel": [None, "radio"]}, "u": 0.5}, "window: unknown channel 'radio'"),
    ({"window": {**window(), "prev_channel": [None] * 9}, "u": 0.5}, "window: 9 tokens"),
    (item("ten"), "window: context.hour"),
    (item(NAN_HOUR), "model: its answer is not finite"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_ITEMS)
@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_a_bad_item_gets_its_own_error_and_fails_no_other(bad: Any, message: str, protocol: str) -> None:
    (alone,), _ = ask(made(), v1(item(4.0), item(5.0)))
    items = [item(4.0), bad, item(5.0)]
    request = v1(*items) if protocol == "v1" else v2(*[json.dumps(i) for i in items])
    (mixed, mate), context = ask(made(), request, v1(item(4.0)))
    decisions = mixed["predictions"] if protocol == "v1" else [json.loads(t) for t in mixed["outputs"][0]["data"]]
    assert decisions[0] == alone["predictions"][0] == mate["predictions"][0]
    assert decisions[2] == alone["predictions"][1]
    assert list(decisions[1]) == ["error"]
    assert message in decisions[1]["error"]
    assert context.status == {}


BAD_REQUESTS = [
    ({}, messages.NO_BODY),
    ({"body": b"{"}, messages.NOT_JSON),
    ({"body": b"\xff\xfe\xfd"}, messages.NOT_JSON),
    ({"body": b"[1]"}, messages.NO_REQUEST),
    ({"body": b"{}"}, messages.WRONG_NUMBER),
    ({"body": b'{"instances": {}}'}, messages.WRONG_NUMBER),
    ({"body": b'{"instances": []}'}, messages.WRONG_NUMBER),
    ({"body": b'{"instances": [NaN]}'}, messages.NOT_JSON),
    ({"body": b'{"instances": [' + b"[" * 100_000 + b"]}"}, messages.NOT_JSON),
    ({"body": b'{"instances": [' + b"9" * 5000 + b"]}"}, messages.NOT_JSON),
    ({"body": json.dumps({"instances": [None] * (MAX_INSTANCES + 1)}).encode()}, messages.WRONG_NUMBER),
    ({"body": b'{"inputs": []}'}, messages.WRONG_TENSOR),
    ({"body": b'{"inputs": {"name": "instances"}}'}, messages.WRONG_TENSOR),
    (v2("{}", name="x"), messages.WRONG_TENSOR),
    (v2("{}", datatype="FP32"), messages.WRONG_TENSOR),
    (v2("{}", shape=[2]), messages.WRONG_SHAPE),
    (v2("{}", data="{}"), messages.WRONG_SHAPE),
]


@pytest.mark.parametrize(("request_", "words"), BAD_REQUESTS, ids=range(len(BAD_REQUESTS)))
def test_an_unreadable_request_gets_400_and_fails_no_other(request_: dict[str, Any], words: messages.Words) -> None:
    (before, refused, after), context = ask(made(), v1(item()), request_, v1(item()))
    assert context.status == {1: 400}
    assert refused["error"] and refused["code"] == words.code
    assert before == after
    assert "error" not in before["predictions"][0]


def test_a_failing_network_gives_each_item_an_error() -> None:
    def fail(batch: WindowBatch) -> Any:
        raise RuntimeError("broken")

    (answer, ready), context = ask(made(fail), v1(item(), None), {"body": b""})
    assert answer["predictions"][0] == {"error": "model: RuntimeError: broken"}
    assert "None" in answer["predictions"][1]["error"]
    assert ready["ready"] is True
    assert context.status == {}


def test_a_negative_cost_is_an_error_of_its_item() -> None:
    def negative(batch: WindowBatch) -> Any:
        logits, reward, cost = Network().predict(batch)
        cost[0, 0] = -1.0
        return logits, reward, cost

    (answer,), _ = ask(made(negative), v1(item(), item()))
    assert "negative" in answer["predictions"][0]["error"]
    assert "channel" in answer["predictions"][1]


def test_an_internal_fault_is_status_500_and_no_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("bug")

    monkeypatch.setattr(policy_handler, "decide", broken)
    answers, context = ask(made(), v1(item()), v1(item()))
    assert answers == [{"error": "ZeroDivisionError: bug"}] * 2
    assert context.status == {0: 500, 1: 500}


def expected_decisions(artifact: Any, items: list[dict[str, Any]]) -> list[str]:
    batch = WindowBatch.from_instances([i["window"] for i in items], SPEC)
    chosen = decide(artifact.forecast(batch), POLICY, [i["u"] for i in items])
    return [SPEC.channels[c] for c in chosen.channel_B]


@pytest.mark.integration
def test_concurrent_decisions_and_explanations_through_torchserve(artifact: Any, tmp_path: Path, all_gone: Any) -> None:
    from serving.archive import package
    from serving.local.ports import free_ports
    from serving.local.torchserve import TorchServe

    package(artifact.folder, "policy", tmp_path / "store")
    with TorchServe(tmp_path / "store", tmp_path / "work", *free_ports(1)) as server:
        log, base, url = server.log.read_text(), server.inference_url, server.endpoint("policy")
        items = [item(float(hour), u=hour / 24) for hour in range(24)]
        expected = expected_decisions(artifact, items)
        model = {"name": "challenger", "version": artifact.model["version"], "digest": artifact.digest}

        def client(k: int) -> None:
            match k % 6:
                case 0:
                    assert call(url, b'{"instances": ')[0] == 400
                case 1:
                    status, answer = call(f"{base}/v2/models/policy/infer", v2(json.dumps(items[k]), "{}")["body"])
                    first, second = (json.loads(text) for text in answer["outputs"][0]["data"])
                    assert (status, first["channel"], list(second)) == (200, expected[k], ["error"])
                case 2:
                    status, answer = call(url, v1(items[k], None)["body"])
                    assert (status, answer["predictions"][0]["channel"]) == (200, expected[k])
                    assert answer["predictions"][0]["model"] == model
                case 3:
                    status, answer = call(f"{base}/v2/models/policy/explain", v2(json.dumps(items[k]))["body"])
                    why = json.loads(answer["outputs"][0]["data"][0])
                    assert (status, why["channel"], len(why["touchpoints"])) == (200, expected[k], 1)
                case _:
                    path = "explanations/policy" if k % 2 else "v1/models/policy:explain"
                    status, answer = call(f"{base}/{path}", v1(items[k])["body"])
                    (why,) = answer["explanations"]
                    assert (status, why["channel"], len(why["touchpoints"])) == (200, expected[k], 1)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(client, list(range(24)) * 3))
        assert call(url, b"{}", "application/x-www-form-urlencoded")[0] == 400
        assert call(f"{base}/predictions/policy")[1]["ready"] is True
        assert server.log.read_text() == log, "a request must not write to the log"
    all_gone()
