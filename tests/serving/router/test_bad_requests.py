"""A bad request is a 4xx that says where, and the router decides on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.serving.router_fixtures import (
    CONTEXT,
    Harness,
    instance,
    run,
)

pytestmark = pytest.mark.filterwarnings("ignore:ORJSONResponse is deprecated")


GOOD_OUTCOME = {"event_id": "e", "decision_id": "d", "kind": "click", "value": 1, "event_time": "2026-01-01T12:00:00Z"}


NOT_A_REQUEST: list[tuple[Any, str]] = [
    ({}, "instances"),
    ([], "instances"),
    ("text", "instances"),
    ({"instances": None}, "instances"),
    ({"instances": {}}, "instances"),
    ({"instances": []}, "instances: expected at least 1 item"),
    ({"instances": [instance()] * 65}, "64"),
    ({"instances": [1]}, r"instances\[0\]"),
    ({"instances": [{}]}, "user_id, campaign_id, context"),
    (
        {"instances": [instance(), {k: v for k, v in instance().items() if k != "campaign_id"}]},
        r"\[1\]: missing campaign_id",
    ),
    ({"instances": [instance(colour="red")]}, "colour"),
    ({"instances": [instance(user_id=7)]}, "user_id: expected text"),
    ({"instances": [instance(user_id="")]}, "user_id"),
    ({"instances": [instance(user_id="x" * 257)]}, "257"),
    ({"instances": [instance(campaign_id=None)]}, "campaign_id"),
    ({"instances": [instance(request_id=["r"])]}, "request_id"),
    ({"instances": [instance(timestamp=1767268800)]}, "timestamp: expected text"),
    ({"instances": [instance(timestamp="yesterday")]}, "timestamp: expected an ISO 8601 time"),
    ({"instances": [instance(timestamp="2026-01-01T12:00:00")]}, "timestamp: the time has no zone"),
    ({"instances": [instance(timestamp="2999-01-01T12:00:00Z")]}, "timestamp: 2999.* is in the future; it is 2"),
    ({"instances": [instance(candidates=[])]}, "candidates: expected at least 1 item"),
    ({"instances": [instance(candidates=["tv"])]}, r"candidates\[0\]: 'tv' is not one of search, video"),
    ({"instances": [instance(candidates="video")]}, "candidates: expected a list"),
    ({"instances": [instance(costs={"tv": 0.1})]}, "costs: unknown tv; known: search, video"),
    ({"instances": [instance(costs={"video": 0.06})]}, "costs.video: expected a number of at most 0.05, got 0.06"),
    ({"instances": [instance(costs={"video": 0})]}, "costs.video: expected a number above 0"),
    ({"instances": [instance(costs=[])]}, "costs: expected a mapping"),
    (
        {"instances": [instance(candidates=["video"], baseline={"channel": "search", "expose": True})]},
        r"\[0\].baseline.channel: 'search' is not one of the candidates, which are video",
    ),
    ({"instances": [instance(context=[])]}, "context: expected a mapping"),
    ({"instances": [instance(context={})]}, "context: missing hour, device"),
    ({"instances": [instance(context={**CONTEXT, "hour": None})]}, "context.hour: expected a number, got None"),
    (
        {"instances": [instance(context={**CONTEXT, "colour": 1, "mood": 2})]},
        "unknown colour, mood; known: hour, device",
    ),
    ({"instances": [instance(context={**CONTEXT, "hour": "14"})]}, "hour: expected a number"),
    ({"instances": [instance(context={**CONTEXT, "hour": True})]}, "hour: expected a number"),
    ({"instances": [instance(context={**CONTEXT, "hour": [14]})]}, "hour: expected a number"),
    ({"instances": [instance(context={**CONTEXT, "device": 3})]}, "device: expected text"),
    ({"instances": [instance(context={**CONTEXT, "device": ""})]}, "context.device: expected at least 1 character"),
]


@pytest.mark.parametrize(("body", "message"), NOT_A_REQUEST)
def test_a_bad_request_is_a_400_that_says_where(ask: Any, body: Any, message: str) -> None:

    response = ask("/v1/models/ads:predict", body)
    assert response.status_code == 400, response.text
    assert re.search(message, response.json()["error"]), response.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"\xff\xfe",
        b'{"instances": NaN}',
        json.dumps({"instances": [instance(context={**CONTEXT, "hour": float("nan")})]}).encode(),
        json.dumps({"instances": [instance()]}).replace("14", "1e999").encode(),
        json.dumps({"instances": [instance()]}).replace("14", "1" * 400).encode(),
        b"[" * 5000,
        b'{"instances": [{"user_id": "\\ud800", "campaign_id": "c", "context": {}}]}',
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", None])
@pytest.mark.parametrize("path", ["/v1/models/ads:predict", "/v1/outcomes", "/v2/models/ads/infer"])
def test_a_body_that_is_no_request_is_a_4xx(ask: Any, path: str, body: bytes, content_type: str | None) -> None:
    response = ask(path, None, content=body, headers={"content-type": content_type} if content_type else {})
    assert 400 <= response.status_code < 500, response.text


def test_an_empty_text_is_a_category_that_is_not_known(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        await h.predict(instance(context={**CONTEXT, "slot": ""}), instance(context={**CONTEXT, "slot": None}))
        assert [item["window"]["context"]["slot"][-1] for _, item in h.arm.asked] == [None, None]

    run(scenario, tmp_path)


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "text/plain", "application/x-www-form-urlencoded"]
)
def test_json_is_understood_whatever_it_is_called(tmp_path: Path, content_type: str) -> None:
    async def scenario(h: Harness) -> None:
        body = json.dumps({"instances": [instance()]}).encode()
        response = await h.post("/v1/models/ads:predict", None, content=body, headers={"content-type": content_type})
        assert response.status_code == 200 and response.json()["predictions"][0]["expose"]

    run(scenario, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "view"}, "kind: 'view' is not one of click, conversion, revenue, cost, cancel"),
        ({"kind": ["click"]}, "kind"),
        ({"value": "1"}, "value"),
        ({"value": -1}, "value: expected a number of at least 0 for click, got -1"),
        ({"value": 1e12}, "value"),
        ({"value": None}, "value"),
        ({"event_id": ""}, "event_id"),
        ({"decision_id": 4}, "decision_id"),
        ({"event_time": "yesterday"}, "event_time"),
        ({"event_time": "2026-01-01T12:00:00"}, "zone"),
        ({"event_time": "0001-01-01T00:00:00+23:00"}, "out of range"),
        ({"event_time": 1767268800}, "event_time"),
        ({"note": "x"}, "note"),
    ],
)
def test_a_bad_outcome_is_a_400_that_says_where(ask: Any, changes: dict[str, Any], message: str) -> None:
    response = ask("/v1/outcomes", {"outcomes": [{**GOOD_OUTCOME, **changes}]})
    assert response.status_code == 400 and message in response.json()["error"], response.text
    assert "outcomes[0]" in response.json()["error"]


def test_bad_outcome_lists(ask: Any) -> None:
    for body in ({}, [], {"outcomes": {}}, {"outcomes": []}, {"outcomes": [GOOD_OUTCOME] * 1001}, {"outcomes": [{}]}):
        assert ask("/v1/outcomes", body).status_code == 400
