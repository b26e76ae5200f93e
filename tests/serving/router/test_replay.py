"""Tests that a decision can be computed again from its record alone."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtorl.experiment.assignment import assign, draw, uniform
from mtorl.policy.exploration import Choice, Exploration, explore
from tests.repository import ROOT
from tests.serving.router_fixtures import CONTEXT, Harness, arms, decision, instance, only, running, with_router
from tests.waiting import until

BUDGETS = [
    {"campaign": "*", "channel": "*", "amount": 100.0},
    {"campaign": "*", "channel": "video", "amount": 50.0, "period": "day", "pacing": {"price": 0.4}},
]


def drawn(probs: dict[str, float], u: float) -> str:
    """Return the channel that u selects; the candidates divide [0, 1) by their probabilities."""
    cumulative = np.cumsum(list(probs.values()))
    return list(probs)[int(np.searchsorted(cumulative / cumulative[-1], u, side="right"))]


def policy(item: dict[str, Any]) -> dict[str, Any]:
    probs = {"search": 0.375, "video": 0.625}
    channel = drawn(probs, item["u"])
    prices = {"search": 0.1, "video": 0.2} | item.get("price", {})
    rewards, costs = {"search": 0.001, "video": 0.01}, {"search": 0.02, "video": 0.02}
    exposure_probs = {name: float(rewards[name] >= prices[name] * costs[name]) for name in probs}
    return decision(
        channel=channel,
        channel_probs=probs,
        propensity=probs[channel],
        price=prices[channel],
        prices=prices,
        exposure_probs=exposure_probs,
        expected_rewards=rewards,
        expected_costs=costs,
        expose=exposure_probs[channel] == 1,
    )


def said(figure: str, record: dict[str, Any], **names: Any) -> Any:
    """Compute a value of a record with the formula in docs/replay.md."""
    (formula,) = re.findall(rf"^\| {figure} \| `(.+)` \|$", (ROOT / "docs" / "replay.md").read_text(), re.MULTILINE)
    return eval(formula, {"assign": assign, "draw": draw, **names}, record)


async def window_of(h: Harness, record: dict[str, Any]) -> dict[str, Any]:
    """Return a decision's window, which is logged after its record."""

    def known() -> dict[str, dict[str, Any]]:
        return {one["decision_id"]: one["window"] for one in h.spool.read("window")}

    await until(lambda: record["decision_id"] in known())
    return known()[record["decision_id"]]


@with_router(changes={"layer_part": [0.25, 1], "budgets": BUDGETS, "overrides": {"u7": "challenger"}})
async def test_arm_draw_channel_and_item_follow_from_the_record(h: Harness) -> None:
    h.arm.mode = policy
    await until(lambda: h.router.budgets.pacer.prices("test/incumbent", "spring"))
    users = [instance(f"u{i}", request_id="r" if i % 2 else None) for i in range(60)]
    await h.predict(*users)
    asked = {json.dumps(item, sort_keys=True) for _, item in h.arm.asked}
    seen = set()
    for record in h.records():
        assert record["override"] == (record["user_id"] == "u7")
        if record["override"]:
            assert (record["arm"], record["assignment_probability"]) == ("challenger", 1.0)
        elif record["arm"] != "outside":
            assert record["arm"] == said("arm", record)
            assert record["assignment_probability"] == record["shares"][record["arm"]]
        u = said("draw", record)
        assert list(record["channel_probs"]) == record["candidates"]
        assert record["channel"] == record["drawn_channel"] == drawn(record["channel_probs"], u)
        for channel, probability in record["exposure_probs"].items():
            assert probability == said("probability of exposing channel c", record, c=channel)
        assert record["expose"] == (record["exposure_probs"][record["channel"]] == 1)
        assert record["price"] == record["prices"][record["channel"]]
        price = {} if record["override"] else {"price": {"video": record["prices"]["video"]}}
        question = said("item for the model", record, u=u, window=await window_of(h, record)) | price
        assert json.dumps(question, sort_keys=True) in asked
        seen.add((record["arm"], record["channel"]))
    assert len(seen) == 6
    others = [record for record in h.records() if not record["override"]]
    places = [uniform("layer", record["layer"], record["user_id"]) for record in others]
    assert [place >= 0.25 for place in places] == [record["arm"] != "outside" for record in others]


BASELINE = {"channel": "search", "expose": False, "propensity": 1.0}
ROWS = [{"when": {"hour": 3}, "channel": "search", "expose": False}, {"channel": "video"}]


@pytest.mark.parametrize("scope", ["channel", "exposure", "both"])
@pytest.mark.parametrize("policy_of", ["baseline", ROWS, None], ids=["baseline", "rows", "endpoint"])
async def test_exploration_follows_from_the_record(tmp_path: Path, policy_of: Any, scope: str) -> None:
    how = {} if policy_of is None else {"policy": policy_of}
    both = arms(explore={"share": 0.5, "scope": scope}, **how)
    async with running(tmp_path, changes={"arms": both, "budgets": BUDGETS}) as h:
        h.arm.mode = policy
        users = [instance(f"u{i}", request_id="r" if i % 2 else None, baseline=BASELINE) for i in range(60)]
        answers = {answer["decision_id"]: answer for answer in await h.predict(*users)}
        explored = 0
        for record in h.records():
            v = said("draw of exploration", record)
            own = record["exploration"]
            explored += own["explored"]
            assert own["explored"] == said("whether it was explored", record, v=v)
            names = {"v": v, "explore": explore, "Choice": Choice, "Exploration": Exploration}
            again, _ = said("drawn channel, its probabilities and those of exposing", record, **names)
            assert (again.channel, again.channel_probs) == (record["drawn_channel"], record["channel_probs"])
            assert again.exposure_probs == record["exposure_probs"] and again.expose == record["expose"]
            answer = answers[record["decision_id"]]
            assert answer["propensity"] == record["channel_probs"][answer["channel"]]
            if policy_of is None:
                assert own["channel"] == drawn(own["channel_probs"], said("draw", record))
                if record["channel"] != own["channel"]:
                    assert record["expected_reward"] == record["expected_rewards"][record["channel"]]
            if scope != "exposure":
                assert min(record["channel_probs"].values()) >= 0.25
        assert 12 <= explored <= 48
        for arm in ("incumbent", "challenger"):
            paid = sum(record["reserved"] for record in h.records() if record["arm"] == arm)
            assert h.balance(arm).reserved == pytest.approx(paid)


SMALL = [{**BUDGETS[0], "amount": 4.0}]
ALL_EXPLORED = arms(explore={"share": 1.0})


@with_router(changes={"arms": ALL_EXPLORED, "budgets": SMALL})
async def test_exploration_stays_in_budget_and_stops_with_the_kill_switch(h: Harness) -> None:
    h.arm.mode = lambda _: decision(expose=False)
    answers = await h.predict(*(instance(f"u{i}") for i in range(60)))
    assert any(answer["expose"] for answer in answers) and any(answer["budget_exhausted"] for answer in answers)
    assert all(balance.reserved <= balance.limit for balance in h.ledger.balances())
    await h.change(arms=ALL_EXPLORED, budgets=SMALL, enabled=False)
    answers = await h.predict(*(instance(f"u{i}") for i in range(20)))
    assert not any(answer["expose"] for answer in answers) and h.records()[-1]["exploration"] is None


@with_router(changes={"arms": arms(explore={"share": 0.5})})
async def test_exploring_an_endpoint_without_probabilities_records_none(h: Harness) -> None:
    h.arm.mode = lambda _: {"channel": "video", "expose": True}
    answers = await h.predict(*(instance(f"u{i}") for i in range(20)))
    assert {answer["channel"] for answer in answers} == {"search", "video"}
    for record in h.records():
        assert (record["propensity"], record["channel_probs"], record["exposure_probs"]) == (None, {}, {})


@pytest.mark.parametrize(
    ("changes", "hours"),
    [
        ({"budgets": [{**BUDGETS[0], "amount": 0.001, "period": period}]}, hours)
        for period, hours in (("total", None), ("hour", 1), ("day", 24))
    ],
)
@with_router()
async def test_a_refusal_records_when_it_ends(h: Harness, changes: Any, hours: int | None) -> None:
    await h.predict()
    (record,) = h.records()
    assert record["budget_exhausted"] and not record["expose"] and record["drawn_channel"] == "video"
    if hours is None:
        assert record["refused_until"] is None
    else:
        left = datetime.fromisoformat(record["refused_until"]) - datetime.fromisoformat(record["event_time"])
        assert timedelta(0) < left <= timedelta(hours=hours)


@with_router()
async def test_a_record_contains_its_times_and_experiment_version(h: Harness) -> None:
    earlier = datetime.now(UTC) - timedelta(hours=2)
    late, now = instance(timestamp=earlier.isoformat()), instance(context={**CONTEXT, "slot": None})
    first, second = h.records_of(await h.predict(late, now))
    assert datetime.fromisoformat(first["request_time"]) == earlier
    assert first["request_time"] < second["request_time"] <= second["event_time"]
    assert (second["context"]["slot"], (await window_of(h, second))["context"]["slot"][-1]) == (None, None)
    experiment = only(h.router.live)
    assert {record["experiment_version"] for record in (first, second)} == {experiment.version}
    assert experiment.replace(alpha=0.01).version != experiment.version == experiment.replace().version
    assert (first["model_name"], first["model_version"], first["model_digest"]) == ("m", "1", "d1")


@with_router()
async def test_a_price_is_recorded_for_its_channel_only_if_others_are_unknown(h: Harness) -> None:
    h.arm.mode = lambda _: decision(price=0.3)
    await h.predict()
    assert h.records()[0]["prices"] == {"video": 0.3}
    h.arm.mode = 500
    await h.predict()
    fallback = h.records()[1]
    assert (fallback["prices"], fallback["price"], fallback["model_version"]) == ({}, None, None)
    assert await window_of(h, fallback) == h.arm.asked[1][1]["window"]  # a default action keeps the window, too
