"""Thousands of requests that nobody should send: none is a 5xx, none stops the router, none leaves anything behind."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lakes import id_of
from tests.serving.router_fixtures import CONTEXT, Harness, event, instance, running

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:ORJSONResponse is deprecated")]

_AT_A_TIME = 20  # requests of an example
_EXAMPLES = 250

_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "\x00", "\ud800", "9" * 400, "1e999", "u1", "2026-01-01T00:00:00Z", "-5000-01-01", "NaN"]),
)
_json = st.recursive(
    _scalars, lambda some: st.lists(some, max_size=4) | st.dictionaries(st.text(max_size=8), some, max_size=4)
)
_EVENT = event(id_of("d"), "click", 1.0)
_TENSORS = [
    {"name": "user_id", "datatype": "BYTES", "shape": [1], "data": ["u1"]},
    {"name": "campaign_id", "datatype": "BYTES", "shape": [1], "data": ["c"]},
    {"name": "context", "datatype": "BYTES", "shape": [1], "data": [json.dumps(CONTEXT)]},
]
_GOOD = {
    "/v1/models/ads:predict": {"instances": [instance(request_id="r", timestamp="2026-01-01T00:00:00Z")]},
    "/v2/models/ads/infer": {"id": "q", "inputs": _TENSORS},
    "/v1/outcomes": {"outcomes": [_EVENT]},
    "/v1/drills": {"stage": "x", "fault": "slow"},
}
_PATHS = [*_GOOD, "/v1/models/other:predict", "/v2/models/other/infer", "/v2/repository/models/ads/unload", "/health/x"]


@st.composite
def _spoiled(draw: st.DrawFn, path: str) -> bytes:
    """A good body with something else in some of its places."""
    body = json.loads(json.dumps(_GOOD[path]))
    for _ in range(draw(st.integers(1, 3))):
        at: Any = body
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if not isinstance(at[key], dict | list) or draw(st.integers(0, 3)) == 0:
                if draw(st.booleans()):
                    at[key] = draw(_json)
                elif isinstance(at, dict):
                    del at[key]
                else:
                    at.extend([at[key]] * draw(st.sampled_from([1, 2, 70])))
                break
            at = at[key]
    text = json.dumps(body).encode()
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 9)) == 0 else text


@st.composite
def _request(draw: st.DrawFn) -> tuple[str, str, bytes, dict[str, str]]:
    path = draw(st.sampled_from(_PATHS))
    kind = draw(st.integers(0, 9))
    if kind < 7 and path in _GOOD:
        body = draw(_spoiled(path))
    elif kind < 9:
        body = json.dumps(draw(_json)).encode()
    else:
        body = draw(st.binary(max_size=64))
    headers = {}
    if draw(st.integers(0, 9)) == 0:
        headers["content-type"] = draw(st.sampled_from(["text/plain", "application/octet-stream", "x", ""]))
    if draw(st.integers(0, 9)) == 0:
        headers["inference-header-content-length"] = draw(st.sampled_from(["0", "-1", "5", "999999", "x"]))
    return draw(st.sampled_from(["POST"] * 8 + ["GET", "PUT"])), path, body, headers


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Harness]]:
    with asyncio.Runner() as runner:
        context = running(tmp_path_factory.mktemp("rubbish"), drills=True)
        yield runner, runner.run(context.__aenter__())
        runner.run(context.__aexit__(None, None, None))


def test_rubbish_is_refused_and_leaves_nothing_behind(harness: tuple[asyncio.Runner, Harness]) -> None:
    runner, h = harness
    (first,) = runner.run(h.predict())
    assert first["expose"]

    @settings(max_examples=_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(_request(), min_size=_AT_A_TIME, max_size=_AT_A_TIME))
    def ask(requests: list[tuple[str, str, bytes, dict[str, str]]]) -> None:
        async def all_of_them() -> None:
            for method, path, body, headers in requests:
                response = await h.client.request(method, path, content=body, headers=headers)
                assert response.status_code < 500, (method, path, body, headers, response.text)

        runner.run(all_of_them())

    ask()
    files = _open_files()
    (again,) = runner.run(h.predict())
    assert again["expose"]
    ask()
    gc.collect()
    assert _open_files() <= files + 2
    assert (h.gateway.readers, h.gateway.decisions.inside, h.router.outcome_admission.inside) == (0, 0, 0)
    assert not h.router.decider.cache._pending
    # No money is reserved that no record of the log speaks of.
    logged = {record["reservation_id"] for record in h.records()}
    assert set(h.ledger.open_reservations()) <= logged


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
