"""Tests that each retry gets the first answer, and its money is reserved only once."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from serving.router.flow.arms import Arms
from serving.router.flow.budgets import Budgets
from serving.router.flow.features import FeatureReader
from serving.router.flow.idempotency_cache import SECONDS, IdempotencyCache
from serving.router.flow.pending_decision import PendingDecision
from tests.serving.router_fixtures import CONTEXT, SHORT_DEADLINE, Harness, instance, with_router
from tests.waiting import until


@with_router()
async def test_a_retry_gets_the_first_answer_and_one_reservation(h: Harness) -> None:
    (first,) = await h.predict(instance(request_id="r1"))
    h.arm.mode = 500
    again, twice = await h.predict(instance(request_id="r1"), instance(request_id="r1"))
    assert first == again == twice and first["expose"]
    assert len(h.records()) == 1 and h.balance(first["arm"]).reserved == 0.05
    fallen = await h.predict(instance(request_id="r0"))
    h.arm.mode = "ok"
    assert await h.predict(instance(request_id="r0")) == fallen and fallen[0]["fallback_reason"] == "model_error"
    others = await h.predict(instance("u2", request_id="r1"), instance(request_id="r1", campaign_id="summer"))
    ids = {answer["decision_id"] for answer in (first, *others)}
    # A request id belongs to one user and one campaign.
    assert len(ids) == 3
    both = await asyncio.gather(*(h.predict(instance(request_id="r2")) for _ in range(5)))
    assert len({answer["decision_id"] for (answer,) in both}) == 1 and len(h.records()) == 5
    plain = await asyncio.gather(*(h.predict() for _ in range(3)))
    assert len({answer["decision_id"] for (answer,) in plain}) == 3


@with_router()
async def test_a_retry_after_a_restart_gets_the_first_answer(h: Harness) -> None:
    (shown,) = await h.predict(instance(request_id="r1"))
    h.arm.mode = 500
    (fallen,) = await h.predict(instance(request_id="r2"))
    asked = len(h.arm.asked)
    await h.restart()
    assert await h.predict(instance(request_id="r1"), instance(request_id="r2")) == [shown, fallen]
    assert len(h.arm.asked) == asked and len(h.records()) == 2
    assert shown["expose"] and shown["model"]["version"] and fallen["fallback_reason"] == "model_error"


BASELINE = {"channel": "search", "expose": True, "propensity": 0.4}
OFFER = {"candidates": ["search"], "costs": {"search": 0.1, "video": 0.04}}


OTHERS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"context": {**CONTEXT, "hour": 15}}),
    ({}, {"timestamp": "2026-01-01T12:00:00Z"}),
    ({"baseline": BASELINE}, {}),
    ({"baseline": BASELINE}, {"baseline": {**BASELINE, "expose": False}}),
    ({"baseline": BASELINE}, {"baseline": {**BASELINE, "propensity": None}}),
    (OFFER, {}),
    (OFFER, {**OFFER, "candidates": ["video"]}),
    (OFFER, {**OFFER, "costs": {"video": 0.02}}),
]


@with_router()
async def test_another_request_with_the_same_id_is_refused(h: Harness) -> None:
    firsts = await h.predict(*(instance(request_id=f"r{i}", **said) for i, (said, _) in enumerate(OTHERS)))
    for restarted in (False, True):
        for i, (said, other) in enumerate(OTHERS):
            good = [instance(request_id=f"r{i}", **said), instance("u2", request_id="never decided")]
            batch = {"instances": [*good, instance(request_id=f"r{i}", **other)]}
            response = await h.post("/v1/models/ads:predict", batch)
            assert response.status_code == 409 and "instances[2]" in response.text, (said, other)
            assert len(h.records()) == len(OTHERS) and not h.router.decider.cache._pending
            assert await h.predict(good[0]) == [firsts[i]]
        if not restarted:
            await h.restart()


@with_router()
async def test_two_requests_with_one_id_in_one_body_are_refused(h: Harness) -> None:
    batch = [instance(request_id="r1"), instance(request_id="r1", context={**CONTEXT, "device": "tv"})]
    response = await h.post("/v1/models/ads:predict", {"instances": batch})
    assert response.status_code == 409 and not h.records() and not h.router.decider.cache._pending
    assert (await h.predict(batch[1]))[0]["expose"]


SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"timestamp": "2026-01-01T12:00:00Z", "context": {**CONTEXT, "slot": None}},
        {"timestamp": "2026-01-01T13:00:00+01:00", "context": {"device": "phone", "hour": 14.0}},
    ),
    (OFFER, {"candidates": ["search", "search"], "costs": {"video": 0.04, "search": 0.1}}),
    ({}, {"candidates": ["video", "search"], "costs": None, "baseline": None}),
]


@with_router()
async def test_a_retry_may_spell_the_same_request_differently(h: Harness) -> None:
    first = await h.predict(*(instance(request_id=f"r{i}", **said) for i, (said, _) in enumerate(SAME)))
    assert await h.predict(*(instance(request_id=f"r{i}", **same) for i, (_, same) in enumerate(SAME))) == first


async def test_old_answers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.router.flow.idempotency_cache.MOST", 3)
    clock = [1000.0]
    monkeypatch.setattr("serving.router.flow.idempotency_cache.time.monotonic", lambda: clock[0])
    answers = IdempotencyCache()

    def given(key: str) -> str | None:
        """Return the decision that a retry would get, or None if it would be decided again."""
        found = answers.claim(key, "said")
        if isinstance(found, asyncio.Future):
            return str(found.result()["decision_id"])
        answers.release([key])
        return None

    def complete(key: str, decision: str) -> None:
        assert answers.claim(key, "said") is None
        answers.complete(key, {"decision_id": decision})

    for i in range(5):
        complete(str(i), f"d{i}")
    assert [given(str(i)) for i in range(5)] == [None, None, "d2", "d3", "d4"]
    answers.forget("d3")
    answers.forget("unknown")
    assert given("3") is None and len(answers._answers) == 2
    clock[0] += SECONDS + 1
    assert given("4") is None
    complete("4", "anew")
    # A late cancellation of the first exposure must keep the newer answer.
    answers.forget("d4")
    assert given("4") == "anew"
    assert len(answers._keys) == len(answers._answers), "memory does not grow with each decision on a request"


@with_router(drills=True, deadline_ms=SHORT_DEADLINE)
async def test_a_second_attempt_touches_neither_the_money_nor_the_record_of_the_first(h: Harness) -> None:
    """The retry reaches a router without the cached answer, so only the ledger knows the first attempt."""
    (first,) = await h.predict(instance(request_id="r1"))
    for stage, fault, reasons in (
        (None, None, {"repeated"}),
        ("ledger", "slow", {"ledger"}),
        ("ledger", "error", {"ledger"}),
        ("log", "error", {"log", "repeated"}),
        ("model", "error", {"model_error"}),
    ):
        h.router.decider.cache = IdempotencyCache()
        if stage:
            await h.post("/v1/drills", {"stage": stage, "fault": fault, "seconds": 60 * (fault == "slow")})
        (again,) = await h.predict(instance(request_id="r1"))
        await h.client.delete("/v1/drills")
        assert not again["expose"] and again["fallback_reason"] in reasons, stage
        assert again["decision_id"] != first["decision_id"]
        await asyncio.sleep(0.05)
        assert h.balance(first["arm"]).reserved == 0.05, stage
    await h.outcome(first["decision_id"], "cost", 0.04)
    balance = h.balance(first["arm"])
    assert (balance.spent, balance.reserved, balance.excess) == (0.04, 0.0, 0.0)
    assert [r["expose"] for r in h.records() if r["decision_id"] == first["decision_id"]] == [True]


_reserve = Budgets.reserve
BUGS: dict[str, tuple[type, str, Callable[..., Any]]] = {
    "no features": (FeatureReader, "read", lambda *_: []),
    "no answers": (Arms, "predict", lambda *_: []),
    "an answer that is not understood": (PendingDecision, "accept", lambda *_: 1 / 0),
    "reservations without answers": (Budgets, "reserve", lambda *asked: _reserve(*asked)[:0]),
    "a reservation that is not understood": (PendingDecision, "pay", lambda *_: 1 / 0),
    "no record": (PendingDecision, "record", lambda _: 1 / 0),
}


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
@with_router()
async def test_a_bug_gives_all_waiting_callers_the_default_action_and_reserves_nothing(
    h: Harness, monkeypatch: pytest.MonkeyPatch, bug: tuple[type, str, Callable[..., Any]]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(*bug)
        answers = await asyncio.gather(*(h.predict(instance(request_id="r1")) for _ in range(3)))
    assert {(answer["fallback_reason"], answer["expose"]) for (answer,) in answers} == {("internal", False)}
    assert len({answer["decision_id"] for (answer,) in answers}) == 1
    assert not h.router.decider.cache._pending
    await until(h.holds_nothing)
    logged = [] if bug[1] == "record" else [False]
    await until(lambda: [record["expose"] for record in h.records()][-1:] == logged)
    assert (await h.predict(instance()))[0]["expose"]


@with_router()
async def test_a_bug_in_the_check_of_a_retry_repeats_the_answer(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = await h.predict(instance(request_id="r1"))
    with monkeypatch.context() as patch:
        patch.setattr(h.ledger, "reserve_all", lambda _: [])
        for _ in range(2):
            assert await h.predict(instance(request_id="r1")) == [first]
    assert not h.router.decider.cache._pending


@with_router()
async def test_a_caller_that_disconnects_leaves_a_record_and_affects_no_other(h: Harness) -> None:
    h.arm.mode = "hold"
    body = {"instances": [instance(request_id="r1"), instance()]}
    impatient = [asyncio.create_task(h.post("/v1/models/ads:predict", body)) for _ in range(3)]
    patient = asyncio.create_task(h.post("/v1/models/ads:predict", body))
    await until(lambda: len(h.arm.asked) >= 2)
    for task in impatient:
        task.cancel()
    h.arm.release.set()
    answer = await patient
    assert answer.status_code == 200 and answer.json()["predictions"][0]["expose"]
    h.arm.mode = "ok"
    await h.router.decider.drain()
    assert len({r["decision_id"] for r in h.records()}) == len(h.ledger.open_reservations()) == len(h.records())
    assert not h.router.decider.cache._pending
    await until(lambda: h.gateway.decisions.inside == 0)
    (again,) = await h.predict(instance(request_id="r1"))
    assert again == answer.json()["predictions"][0]
