"""What may be reported of a decision: the numeric outcomes of the description, and that an ad was not shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mtorl.log.dataset import Column
from serving.router.flow.requests import BadRequest, OutcomeParser
from tests.lakes import id_of
from tests.serving.router_fixtures import SPEC

SHOP = SPEC.replace(
    outcomes=(
        Column(name="profit", kind="numeric"),
        Column(name="verdict", kind="categorical", missing="unknown"),
        Column(name="seconds", kind="numeric", missing="unknown"),
    )
)


def report(kind: str, value: float) -> bytes:
    event: dict[str, Any] = {"event_id": "e", "decision_id": id_of("d"), "event_time": "2026-01-01T12:00:00Z"}
    return json.dumps({"outcomes": [{**event, "kind": kind, "value": value}]}).encode()


@pytest.mark.parametrize("kind", ["cost", "click", "conversion", "revenue", "profit", "seconds", "cancel"])
def test_every_numeric_outcome_of_the_description_may_be_reported(kind: str) -> None:
    (record,) = OutcomeParser(SHOP).parse(report(kind, 2.5))
    assert (record["kind"], record["value"]) == (kind, 2.5)


@pytest.mark.parametrize("kind", ["profits", "verdict", "", "hour"])
def test_another_kind_is_refused(kind: str) -> None:
    with pytest.raises(BadRequest):
        OutcomeParser(SHOP).parse(report(kind, 1.0))


def test_only_an_amount_may_be_negative() -> None:
    for kind in ("revenue", "profit"):
        assert OutcomeParser(SHOP).parse(report(kind, -3.0))[0]["value"] == -3.0
    for kind in ("cost", "click", "conversion", "cancel"):
        with pytest.raises(BadRequest):
            OutcomeParser(SHOP).parse(report(kind, -3.0))
