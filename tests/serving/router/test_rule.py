from typing import Any

import pytest

from mtorl.experiment.rule import first_fit
from tests.serving.router_fixtures import CONTEXT, Harness, arms, instance, only, with_router
from tests.waiting import until

ROWS = [
    {"when": {"age": "30-39"}, "channel": "search", "expose": False},
    {"when": {"device": "phone", "hour": [13, 14]}, "channel": "video"},
    {"channel": "search"},
]


def by(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"arms": arms(policy=list(rows))}


@with_router(changes=by(*ROWS))
async def test_rows_decide_and_their_probabilities_are_known(h: Harness) -> None:
    known, phone, tv = await h.predict(
        instance("u1"), instance("u2"), instance("u3", context={**CONTEXT, "device": "tv"})
    )
    assert [(a["channel"], a["expose"]) for a in (known, phone, tv)] == [
        *(("search", False), ("video", True), ("search", True))
    ]
    assert {a["propensity"] for a in (known, phone, tv)} == {1.0} and not h.arm.asked
    assert phone["reservation_id"] is not None and known["reservation_id"] is None
    policy = only(h.router.live).arm("incumbent")
    for record in h.records():
        assert record["model_name"] == "rule" and record["model_digest"] == policy.rule_digest
        assert record["channel_probs"] == {c: float(c == record["channel"]) for c in record["candidates"]}
        assert record["exposure_probs"][record["channel"]] == float(record["expose"])
        values = record["context"] | record["static"]
        row = first_fit(policy.policy, values, record["candidates"])  # type: ignore[arg-type]
        assert row is not None and (row.channel, row.expose) == (record["channel"], record["expose"])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [(by(*ROWS), ("features", "search", False)), (by(*ROWS[1:]), (None, "video", True))],
    ids=["columns of the user", "columns of the context"],
)
@with_router()
async def test_only_columns_of_the_user_need_the_feature_store(h: Harness, changes: Any, expected: Any) -> None:
    h.features.fault = OSError("gone")
    (answer,) = await h.predict()
    assert (answer["fallback_reason"], answer["channel"], answer["expose"]) == expected


@with_router(changes=by({"channel": "video"}))
async def test_edited_rows_apply_at_once_as_another_model(h: Harness) -> None:
    assert (await h.predict())[0]["channel"] == "video"
    before = only(h.router.live)
    h.put(**by({"channel": "tv"}))
    await until(lambda: "arms[0].policy[0].channel" in h.router.health.parts.get("experiment", ""))
    assert only(h.router.live) is before
    await h.change(**by({"channel": "search"}))
    (answer,) = await h.predict()
    assert answer["channel"] == "search" and answer["model"]["digest"] != before.arm("incumbent").rule_digest
    assert h.router.health.parts["test/" + answer["arm"]] != "ok"
