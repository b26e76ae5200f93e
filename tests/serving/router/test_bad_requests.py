"""Tests that a bad request gets a 4xx that names its faulty place."""

import json
import re
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


WRONG_FIELDS: dict[str, list[Any]] = {
    "colour": ["red"],
    "user_id": [7, "x" * 257],
    "timestamp": ["yesterday", "2026-01-01T12:00:00", "2999-01-01T12:00:00Z"],
    "candidates": [[]],
    "candidates[0]": [["tv"]],
    "costs.tv": [{"tv": 0.1}],
    "costs.video": [{"video": 0.06}, {"video": 0}],
    "baseline.channel": [{"channel": "tv", "expose": True}],
    "context: missing field 'hour'": [{}],
    "context.colour": [{**CONTEXT, "colour": 1, "mood": 2}],
    "context.hour": [{**CONTEXT, "hour": True}],
    "context.device": [{**CONTEXT, "device": ""}],
}
NOT_A_REQUEST: list[tuple[Any, str]] = [
    ([], "expected a mapping"),
    *(({"instances": instances}, "instances") for instances in ({}, [], [instance()] * 65)),
    ({"instances": [instance(), {"user_id": "u1"}]}, "instances[1]: missing field 'campaign_id'"),
    *(
        ({"instances": [instance(**{re.split(r"\W", place)[0]: value})]}, f"instances[0].{place}")
        for place, values in WRONG_FIELDS.items()
        for value in values
    ),
    (
        {"instances": [instance(candidates=["video"], baseline={"channel": "search", "expose": True})]},
        "instances[0].baseline.channel",
    ),
    *(
        ({"outcomes": [{**GOOD_OUTCOME, name: value}]}, f"outcomes[0].{name}")
        for name, value in [("kind", "view"), ("value", "1"), ("value", -1), ("value", 1e12), ("event_id", "")]
        + [("event_time", time) for time in ("2026-01-01T12:00:00", "0001-01-01T00:00:00+23:00")]
        + [("note", "x")]
    ),
    *(({"outcomes": outcomes}, "outcomes") for outcomes in ([], [GOOD_OUTCOME] * 1001, [{}])),
]


@pytest.mark.parametrize(("body", "place"), NOT_A_REQUEST)
def test_a_bad_request_is_a_400_that_names_the_place(ask: Any, body: Any, place: str) -> None:
    response = ask("/v1/outcomes" if "outcomes" in body else "/v1/models/ads:predict", body)
    assert response.status_code == 400 and place in response.json()["error"], response.text
    assert response.json().keys() == {"error", "code", "values"} and response.json()["code"]


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
async def test_an_empty_text_is_an_unknown_category(h: Harness) -> None:
    await h.predict(instance(context={**CONTEXT, "slot": ""}), instance(context={**CONTEXT, "slot": None}))
    assert [item["window"]["context"]["slot"][-1] for _, item in h.arm.asked] == [None, None]


@with_router()
async def test_json_is_accepted_with_any_content_type(h: Harness) -> None:
    body = json.dumps({"instances": [instance()]}).encode()
    for name in ("application/json; charset=utf-8", "text/plain", "application/x-www-form-urlencoded"):
        response = await h.post("/v1/models/ads:predict", None, content=body, headers={"content-type": name})
        assert response.status_code == 200 and response.json()["predictions"][0]["expose"]


def test_every_numeric_outcome_may_be_reported_and_only_an_amount_may_be_negative() -> None:
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
