"""Tests that a decision's answer, log record and reservation agree."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import jsonschema

from mtorl.experiment.assignment import draw
from mtorl.log.records import json_schema
from mtorl.log.times import microseconds
from tests.serving.router_fixtures import COST_CAP, Harness, decision, instance, sample, with_router
from tests.waiting import until

BUDGET = {"campaign": "*", "channel": "*", "amount": 50.0}


@with_router()
async def test_a_decision_is_reserved_logged_and_answered(h: Harness) -> None:
    (answer,) = await h.predict(instance(request_id="r1"))
    assert answer == {
        "decision_id": answer["decision_id"],
        "request_id": "r1",
        "experiment": "test",
        "arm": answer["arm"],
        "channel": "video",
        "expose": True,
        "propensity": 0.75,
        "expected_reward": 0.1,
        "expected_cost": 0.03,
        "reservation_id": answer["decision_id"],
        "budget_exhausted": False,
        "fallback_reason": None,
        "model": {"name": "m", "version": "1", "digest": "d1"},
    }
    (record,) = h.records()
    jsonschema.Draft202012Validator(json_schema("decision")).validate(record)
    assert list(record) == list(json_schema("decision")["properties"])
    assert {name: record[name] for name in answer if name != "model"} | {"model": answer["model"]} == answer
    assert record["features_found"] and record["reserved"] == COST_CAP["video"]
    assert h.balance(answer["arm"]).reserved == COST_CAP["video"]


@with_router()
async def test_the_arm_gets_the_window_and_a_reproducible_draw(h: Harness) -> None:
    now = datetime.now(UTC)
    h.features.users["u2"] = h.features.users["u1"]
    await h.predict(instance(request_id="r1", timestamp=now.isoformat()))
    await h.predict(instance("u2", request_id="r1", timestamp=now.isoformat()))
    await h.predict(instance(timestamp=now.isoformat()))
    first, second, _ = (item for _, item in h.arm.asked)
    assert first["window"] == second["window"]
    parts = ("experiment", "salt", "user_id", "campaign_id")
    expected = [draw(*(r[part] for part in parts), r["request_id"] or r["decision_id"]) for r in h.records()]
    assert [item["u"] for _, item in h.arm.asked] == expected and len(set(expected)) == 3
    (time,) = h.features.users["u1"].history["hist_timestamp"]
    assert first["window"] == {
        "timestamp": microseconds(now),
        "prev_channel": [None, "video"],
        "prev_timestamp": [None, time],
        "prev_click": [0.0, 1],
        "prev_conversion": [0.0, 0],
        "prev_revenue": [0.0, 0.0],
        "prev_cost": [0.0, 0.03],
        "context": {"hour": [9.0, 14.0], "device": ["tv", "phone"], "slot": ["top", "top"]},
        "static": {"age": "30-39"},
    }
    assert len({record["feature_hash"] for record in h.records()}) == 1


@with_router()
async def test_a_decision_sees_only_what_precedes_its_time(h: Harness) -> None:
    shown = datetime.fromtimestamp(h.features.users["u1"].history["hist_timestamp"][0] / 1e6, UTC)
    # A caller's clock may be slightly ahead.
    soon = datetime.now(UTC) + timedelta(seconds=50)
    for when in (shown, shown + timedelta(microseconds=1), soon):
        await h.predict(instance(timestamp=when.isoformat()))
    await h.predict(instance())
    seen = [item["window"]["prev_channel"] for _, item in h.arm.asked]
    assert seen == [[None], [None, "video"], [None, "video"], [None, "video"]]


@with_router()
async def test_the_feature_hash_covers_all_features(h: Harness) -> None:
    known = h.features.users["u1"]
    now = datetime.now(UTC).isoformat()
    for aggregates in ({}, {"campaign_touchpoints": 5.0}, {"campaign_touchpoints": 6.0}, {"campaign_touchpoints": 5.0}):
        h.features.users["u1"] = replace(known, aggregates=aggregates)
        await h.predict(instance(timestamp=now))
    first, *others = (record["feature_hash"] for record in h.records())
    assert first not in others and others[0] != others[1] and others[0] == others[2]


@with_router(changes={"layer_part": [0.5, 1]})
async def test_a_user_outside_the_experiment_gets_the_incumbent_and_is_marked(h: Harness) -> None:
    answers = await h.predict(*(instance(f"u{i}") for i in range(20)))
    assert {answer["arm"] for answer in answers} == {"outside", "incumbent", "challenger"}
    outside = [answer["arm"] == "outside" for answer in answers]
    assert sum(outside) == sum(record["assignment_probability"] == 1 for record in h.records())
    assert h.balance("outside").limit == 50 and h.balance("outside").reserved == sum(outside) * COST_CAP["video"]
    assert "outside" not in h.router.health.parts, "only arms are watched, and outside is none"


@with_router(changes={"budgets": [{**BUDGET, "period": "day", "pacing": {"price": 0.4}}]})
async def test_a_paced_budget_has_a_price_for_each_channel(h: Harness) -> None:
    await until(lambda: h.router.budgets.pacer.prices("test/incumbent", "spring"))
    await h.predict()
    assert set(h.arm.asked[-1][1]["price"]) == {"search", "video"}
    assert sample("mtorl_budget_price", arm="incumbent") > 0


@with_router(changes={"budgets": [{**BUDGET, "pacing": {"opportunities": 1000}}]})
async def test_opportunities_and_forecasts_reach_the_pacing(h: Harness) -> None:
    """The file sets no first price, so the pacer computes it from the decisions' forecasts."""
    for number in range(60):
        (answer,) = await h.predict(instance(f"u{number}"))
    pacer = h.router.budgets.pacer
    await until(lambda: set(pacer.by_arm()) == {"test/incumbent", "test/challenger"})
    ratio = answer["expected_reward"] / answer["expected_cost"]
    assert all(0 < price < 2 * ratio for price in pacer.by_arm().values())
    await until(lambda: sum(h.router.ledger.pacing.reports()[0].values()) == 60)


@with_router()
async def test_users_without_features_are_counted_and_get_decisions(h: Harness) -> None:
    before = {found: sample("mtorl_features_total", found=found) for found in ("yes", "no")}
    await h.predict(instance("u1"))
    await h.predict(*(instance(f"stranger-{i}") for i in range(3)))
    found = {found: sample("mtorl_features_total", found=found) - before[found] for found in before}
    assert found == {"yes": 1, "no": 3}
    assert [record["features_found"] for record in h.records()] == [True, False, False, False]
    assert h.arm.asked[-1][1]["window"]["prev_channel"] == [None]


@with_router()
async def test_a_decision_without_exposure_costs_nothing(h: Harness) -> None:
    h.arm.mode = lambda _: decision(expose=False, price=0.4)
    (answer,) = await h.predict()
    assert (answer["expose"], answer["channel"], answer["fallback_reason"]) == (False, "video", None)
    assert h.ledger.open_reservations() == [] and h.records()[0]["price"] == 0.4


@with_router(changes={"budgets": [{"campaign": "spring", "channel": "video", "amount": 24}]})
async def test_a_campaign_without_a_budget_is_reported_as_no_account(h: Harness) -> None:
    def counted() -> float:
        return sum(sample("mtorl_fallbacks_total", arm=arm, reason="no_account") for arm in ("incumbent", "challenger"))

    before = counted()
    known, unknown = await h.predict(instance(), instance(campaign_id="autumn"))
    assert known["expose"] and not unknown["expose"]
    assert (unknown["fallback_reason"], unknown["budget_exhausted"]) == ("no_account", False)
    h.arm.mode = lambda _: decision(channel="search", propensity=0.25)
    baseline = {"channel": "search", "expose": True}
    (other_channel,) = await h.predict(instance(baseline=baseline))
    assert (other_channel["fallback_reason"], other_channel["expose"]) == ("no_account", False)
    assert counted() == before + 2


@with_router(changes={"budgets": [{"campaign": "*", "channel": "*", "amount": 0.24}]})
async def test_an_exhausted_budget_is_no_fault_and_no_exposure(h: Harness) -> None:
    # Each arm has a budget of 0.12, and each decision costs 0.05.
    answers = [(await h.predict())[0] for _ in range(4)]
    assert [a["expose"] for a in answers] == [True, True, False, False]
    assert [a["budget_exhausted"] for a in answers] == [False, False, True, True]
    assert {a["fallback_reason"] for a in answers} == {None} and {a["channel"] for a in answers} == {"video"}
    assert [r["budget_exhausted"] for r in h.records()] == [False, False, True, True]
