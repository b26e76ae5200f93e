"""A bad request is a 4xx that says where, and the router decides on."""

import json
from typing import Any

import pytest

from mtorl.log.dataset import Column
from serving.router.flow.requests import BadRequest, OutcomeParser
from tests.lakes import id_of
from tests.serving.router_fixtures import CONTEXT, SPEC, Harness, event, instance, with_router

GOOD_OUTCOME = event(id_of("d"), "click", 1)
SHOP = SPEC.replace(
    outcomes=(
        Column(name="profit", kind="numeric"),
        Column(name="verdict", kind="categorical", missing="unknown"),
        Column(name="seconds", kind="numeric", missing="unknown"),
    )
)


NOT_A_REQUEST: list[tuple[Any, str]] = [
    ([], "expected a mapping"),
    ({"instances": {}}, "instances"),
    ({"instances": []}, "instances"),
    ({"instances": [instance()] * 65}, "instances"),
    ({"instances": [instance(), {"user_id": "u1"}]}, "instances[1]: missing field 'campaign_id'"),
    ({"instances": [instance(colour="red")]}, "instances[0].colour"),
    ({"instances": [instance(user_id=7)]}, "instances[0].user_id"),
    ({"instances": [instance(user_id="x" * 257)]}, "instances[0].user_id"),
    ({"instances": [instance(timestamp="yesterday")]}, "instances[0].timestamp"),
    ({"instances": [instance(timestamp="2026-01-01T12:00:00")]}, "instances[0].timestamp"),
    ({"instances": [instance(timestamp="2999-01-01T12:00:00Z")]}, "instances[0].timestamp"),
    ({"instances": [instance(candidates=[])]}, "instances[0].candidates"),
    ({"instances": [instance(candidates=["tv"])]}, "instances[0].candidates[0]"),
    ({"instances": [instance(costs={"tv": 0.1})]}, "instances[0].costs.tv"),
    ({"instances": [instance(costs={"video": 0.06})]}, "instances[0].costs.video"),
    ({"instances": [instance(costs={"video": 0})]}, "instances[0].costs.video"),
    ({"instances": [instance(baseline={"channel": "tv", "expose": True})]}, "instances[0].baseline.channel"),
    (
        {"instances": [instance(candidates=["video"], baseline={"channel": "search", "expose": True})]},
        "instances[0].baseline.channel",
    ),
    ({"instances": [instance(context={})]}, "instances[0].context: missing field 'hour'"),
    ({"instances": [instance(context={**CONTEXT, "colour": 1, "mood": 2})]}, "instances[0].context.colour"),
    ({"instances": [instance(context={**CONTEXT, "hour": True})]}, "instances[0].context.hour"),
    ({"instances": [instance(context={**CONTEXT, "device": ""})]}, "instances[0].context.device"),
]


@pytest.mark.parametrize(("body", "place"), NOT_A_REQUEST)
def test_a_bad_request_is_a_400_that_says_where(ask: Any, body: Any, place: str) -> None:
    response = ask("/v1/models/ads:predict", body)
    assert response.status_code == 400 and place in response.json()["error"], response.text


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


@with_router()
async def test_an_empty_text_is_a_category_that_is_not_known(h: Harness) -> None:
    await h.predict(instance(context={**CONTEXT, "slot": ""}), instance(context={**CONTEXT, "slot": None}))
    assert [item["window"]["context"]["slot"][-1] for _, item in h.arm.asked] == [None, None]


@with_router()
async def test_json_is_understood_whatever_it_is_called(h: Harness) -> None:
    body = json.dumps({"instances": [instance()]}).encode()
    for name in ("application/json; charset=utf-8", "text/plain", "application/x-www-form-urlencoded"):
        response = await h.post("/v1/models/ads:predict", None, content=body, headers={"content-type": name})
        assert response.status_code == 200 and response.json()["predictions"][0]["expose"]


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"kind": "view"}, "outcomes[0].kind"),
        ({"value": "1"}, "outcomes[0].value"),
        ({"value": -1}, "outcomes[0].value"),
        ({"value": 1e12}, "outcomes[0].value"),
        ({"event_id": ""}, "outcomes[0].event_id"),
        ({"event_time": "2026-01-01T12:00:00"}, "outcomes[0].event_time"),
        ({"event_time": "0001-01-01T00:00:00+23:00"}, "outcomes[0].event_time"),
        ({"note": "x"}, "outcomes[0].note"),
    ],
)
def test_a_bad_outcome_is_a_400_that_says_where(ask: Any, changes: dict[str, Any], place: str) -> None:
    response = ask("/v1/outcomes", {"outcomes": [{**GOOD_OUTCOME, **changes}]})
    assert response.status_code == 400 and place in response.json()["error"], response.text


def test_bad_outcome_lists(ask: Any) -> None:
    for body in ([], {"outcomes": []}, {"outcomes": [GOOD_OUTCOME] * 1001}, {"outcomes": [{}]}):
        assert ask("/v1/outcomes", body).status_code == 400


def test_every_numeric_outcome_may_be_reported_and_only_an_amount_may_be_negative() -> None:
    """Of the data set's description, and that an ad was not shown."""
    never_negative, other = ("cost", "click", "conversion", "cancel"), ("revenue", "profit", "seconds")
    good = [(kind, 2.5) for kind in (*never_negative, *other)] + [(kind, -3.0) for kind in other]
    bad = [(kind, 1.0) for kind in ("profits", "verdict", "", "hour")] + [(kind, -3.0) for kind in never_negative]
    for kind, value in good + bad:
        body = json.dumps({"outcomes": [{**GOOD_OUTCOME, "kind": kind, "value": value}]}).encode()
        if (kind, value) in good:
            (record,) = OutcomeParser(SHOP).parse(body)
            assert (record["kind"], record["value"]) == (kind, value)
        else:
            with pytest.raises(BadRequest):
                OutcomeParser(SHOP).parse(body)
