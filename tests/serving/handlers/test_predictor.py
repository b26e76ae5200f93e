"""Tests that the predictor on KServe's server answers like TorchServe's handler."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.kserve_sdk import InferenceError, InferInput, InferRequest, InvalidInput
from serving.local.ports import free_ports
from serving.logs import messages
from serving.predictor.predictor import Predictor
from tests.serving.handler_fixtures import SPEC, Network, ask, call, item, loaded, made, v1, v2
from tests.waiting import eventually


@pytest.fixture(scope="module")
def handler(artifact: Any) -> Any:
    return loaded(artifact.folder)


@pytest.fixture(scope="module")
def predictor(artifact: Any) -> Predictor:
    model = Predictor("challenger", artifact.folder)
    assert not model.ready
    assert model.load() and model.ready
    return model


def of_kserve(model: Predictor, payload: Any, explain: bool = False) -> Any:
    return asyncio.run(model.explain(payload) if explain else model.predict(payload))


def infer_request(*texts: Any, **changes: Any) -> InferRequest:
    tensor = {"name": "instances", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts), **changes}
    return InferRequest(model_name="challenger", infer_inputs=[InferInput(**tensor)])


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    length = draw(st.integers(1, SPEC.window))
    new = draw(st.booleans())
    times = sorted(draw(st.lists(st.integers(0, 10**15), min_size=length, max_size=length)))
    numbers = st.lists(st.floats(0, 1e6), min_size=length, max_size=length)
    categories = st.none() | st.sampled_from(["phone", "desktop", "telex"])
    made = {
        "timestamp": times[-1] + draw(st.integers(0, 10**9)),
        "prev_channel": [draw(st.sampled_from(SPEC.channels)) for _ in range(length)],
        "prev_timestamp": list(times),
        **{f"prev_{outcome}": draw(numbers) for outcome in ("click", "conversion", "revenue", "cost")},
        "context": {
            "hour": draw(st.lists(st.none() | st.floats(-50, 50), min_size=length, max_size=length)),
            "device": draw(st.lists(categories, min_size=length, max_size=length)),
        },
        "static": {"region": draw(st.none() | st.sampled_from(["north", "south"]))},
    }
    if new:
        made["prev_channel"][0] = made["prev_timestamp"][0] = None
        for outcome in ("click", "conversion", "revenue", "cost"):
            made[f"prev_{outcome}"][0] = 0.0
    return made


@st.composite
def broken(draw: st.DrawFn, good: st.SearchStrategy[dict[str, Any]]) -> Any:
    odd = draw(good)
    odd["window"] = dict(odd["window"])
    where = odd if draw(st.booleans()) else odd["window"]
    field = draw(st.sampled_from(sorted(where)))
    if draw(st.booleans()):
        del where[field]
    else:
        where[field] = draw(st.sampled_from([None, True, "x", -1, 2.5, 10**400, [], ["search"], {}, {"search": 1}]))
    return odd


PRICES = st.none() | st.floats(0, 50) | st.dictionaries(st.sampled_from(SPEC.channels), st.floats(0, 50))
CANDIDATES = st.none() | st.lists(st.sampled_from(SPEC.channels), min_size=1, unique=True)
ITEMS = st.fixed_dictionaries(
    {"window": windows(), "u": st.floats(0, 1, exclude_max=True), "price": PRICES, "candidates": CANDIDATES}
)
ANY = ITEMS | broken(ITEMS) | st.sampled_from([None, 3, "text", [], {}])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(items=st.lists(ANY, min_size=1, max_size=6))
def test_handler_and_predictor_agree_in_both_protocols(handler: Any, predictor: Predictor, items: list[Any]) -> None:
    texts = [json.dumps(one) for one in items]
    (one, two), context = ask(handler, v1(*items), v2(*texts))
    assert context.status == {}
    through_handler = one["predictions"]
    in_v2 = [json.loads(text) for text in two["outputs"][0]["data"]]

    through_v1 = of_kserve(predictor, {"instances": items})["predictions"]
    through_v2 = [json.loads(text) for text in of_kserve(predictor, infer_request(*texts)).outputs[0].data]
    for answers in (in_v2, through_v1, through_v2):
        for ours, theirs in zip(through_handler, answers, strict=True):
            same_answer(ours, theirs)


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def same_answer(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if isinstance(value, float):
            close(theirs[name], value)
        elif name in ("channel_probs", "expected_rewards", "expected_costs"):
            close(list(theirs[name].values()), list(value.values()))
        else:
            assert theirs[name] == value


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(item=ITEMS)
def test_a_valid_item_never_gets_an_error(handler: Any, item: dict[str, Any]) -> None:
    (answer,), _ = ask(handler, v1(item))
    assert "channel" in answer["predictions"][0]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(items=st.lists(ANY, min_size=1, max_size=3))
def test_explanations_agree(handler: Any, predictor: Predictor, items: list[Any]) -> None:
    (ours,), _ = ask(handler, v1(*items), explain=[0])
    theirs = of_kserve(predictor, {"instances": items}, explain=True)
    assert list(theirs) == ["explanations"]
    for one, other in zip(ours["explanations"], theirs["explanations"], strict=True):
        assert one.keys() == other.keys()
        assert one.get("error") == other.get("error")
        if "error" not in one:
            close(
                [t["expected_reward"] for t in one["touchpoints"]], [t["expected_reward"] for t in other["touchpoints"]]
            )
            close(one["without_past"]["log_prob"], other["without_past"]["log_prob"])


BAD_PAYLOADS = [
    {},
    b"{",
    b"",
    infer_request("{}", name="x"),
    infer_request("{}", data="{}"),
    infer_request(1.0, datatype="FP32"),
]


@pytest.mark.parametrize("payload", BAD_PAYLOADS, ids=range(len(BAD_PAYLOADS)))
def test_an_unreadable_request_is_a_client_error(predictor: Predictor, payload: Any) -> None:
    for explain in (False, True):
        with pytest.raises(InvalidInput):
            of_kserve(predictor, payload, explain)


def test_concurrent_callers_share_a_forward_pass() -> None:
    model, network = Predictor("challenger", Path("nowhere")), Network()
    model.handler = made(network.predict)
    payloads = [{"instances": [item(hour=float(hour))]} for hour in range(20)]

    async def together() -> list[Any]:
        return await asyncio.gather(*map(model.predict, payloads))

    answers = asyncio.run(together())
    assert network.calls == 1
    assert answers == [of_kserve(model, payload) for payload in payloads]


def test_text_that_kserve_did_not_decode_is_decoded(predictor: Predictor) -> None:
    assert "channel" in of_kserve(predictor, v1(item())["body"])["predictions"][0]


def test_an_internal_fault_is_not_a_client_error(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Any:
        raise ValueError("bug")

    monkeypatch.setattr(predictor.handler, "_decisions", broken)
    for explain in (False, True):
        with pytest.raises(InferenceError, match="bug"):
            of_kserve(predictor, {"instances": [item()]}, explain)


@pytest.fixture
def served(artifact: Any, tmp_path: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "serving.predictor", "--artifact", str(artifact.folder), "--name", "challenger"]
    command += ["--port", str(port)]
    log = tmp_path / "predictor.log"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment["HOME"] = str(tmp_path)
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        try:
            url = f"http://127.0.0.1:{port}"
            eventually(lambda: server.poll() is not None or alive(url), 300)
            assert server.poll() is None, log.read_text()
            yield url
            assert not list(messages(log.read_text().splitlines())), "a request must not write to the log"
            assert not (tmp_path / ".cache").exists(), "onnxruntime stores telemetry there before it sends it"
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(120) == 0


def alive(url: str) -> bool:
    return call(f"{url}/v1/models/challenger") == (200, {"name": "challenger", "ready": True})


@pytest.mark.integration
def test_kserves_own_server(handler: Any, served: str) -> None:
    url = served
    (expected, why), _ = ask(handler, v1(item(), None), v1(item()), explain=[1])
    v1_url, v2_url = f"{url}/v1/models/challenger", f"{url}/v2/models/challenger"
    for content_type in ("application/json", "application/json; charset=utf-8"):
        status, answer = call(f"{v1_url}:predict", v1(item(), None)["body"], content_type)
        assert status == 200
        for ours, theirs in zip(expected["predictions"], answer["predictions"], strict=True):
            same_answer(ours, theirs)
    status, answer = call(f"{v2_url}/infer", v2(json.dumps(item()), "{")["body"])
    good, bad = (json.loads(text) for text in answer["outputs"][0]["data"])
    assert status == 200
    same_answer(expected["predictions"][0], good)
    assert list(bad) == ["error"]
    status, answer = call(f"{v1_url}:explain", v1(item())["body"])
    assert status == 200
    assert answer["explanations"][0]["method"] == why["explanations"][0]["method"]
    assert len(answer["explanations"][0]["touchpoints"]) == 1
    for bad_body, code in ((b"{", None), (b"[]", "no-request"), (b'{"instances": []}', "wrong-number-of-items")):
        status, answer = call(f"{v1_url}:predict", bad_body)
        assert status == 400 and answer["code"] == (code or answer["code"])
    assert call(f"{url}/v2/repository/models/challenger/unload", b"{}")[0] == 404
    assert call(f"{url}/v1/models/{'x' * 40_000}")[0] == 431
    assert alive(url)


@pytest.mark.integration
def test_an_invalid_artifact_or_port_is_reported_without_a_traceback(artifact: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serving.predictor", "--name", "challenger", "--artifact"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        folder = str(artifact.folder)
        for options, why in (
            ([str(tmp_path)], "model.json: missing"),
            ([folder, "--port", port], f"can't listen on 127.0.0.1:{port}: Address already in use"),
            ([folder, "--port", "99999"], "expected a port, 0 to 65535, got '99999'"),
        ):
            done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=240)
            assert done.returncode == 2
            assert why in done.stderr and "Traceback" not in done.stderr and "never awaited" not in done.stderr
