"""A request that comes again gets its answer, and its money is reserved once."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from serving.router.flow.arms import Arms
from serving.router.flow.features import FeatureReader
from serving.router.flow.idempotency_cache import SECONDS, IdempotencyCache, prediction_of
from serving.router.flow.pending_decision import PendingDecision
from tests.serving.router_fixtures import (
    CONTEXT,
    SHORT_DEADLINE,
    Harness,
    instance,
    run,
)

pytestmark = pytest.mark.filterwarnings("ignore:ORJSONResponse is deprecated")


def test_a_request_that_comes_again_gets_its_answer_and_one_reservation(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        (first,) = await h.predict(instance(request_id="r1"))
        h.arm.mode = 500
        again, twice = await h.predict(instance(request_id="r1"), instance(request_id="r1"))
        assert first == again == twice and first["expose"]
        assert len(h.records()) == 1 and h.balance(first["arm"]).reserved == 0.05
        h.arm.mode = "ok"
        (other,) = await h.predict(instance("u2", request_id="r1"))
        assert other["decision_id"] != first["decision_id"]  # a request id is the caller's for that user
        both = await asyncio.gather(*(h.predict(instance(request_id="r2")) for _ in range(5)))
        assert len({answer["decision_id"] for (answer,) in both}) == 1 and len(h.records()) == 3
        plain = await asyncio.gather(*(h.predict() for _ in range(3)))
        assert len({answer["decision_id"] for (answer,) in plain}) == 3

    run(scenario, tmp_path)


def test_it_gets_it_after_a_restart_too(tmp_path: Path) -> None:
    given: list[dict[str, Any]] = []

    async def before(h: Harness) -> None:
        given.extend(await h.predict(instance(request_id="r1")))
        h.arm.mode = 500
        given.extend(await h.predict(instance(request_id="r2")))

    async def after(h: Harness) -> None:
        again = await h.predict(instance(request_id="r1"), instance(request_id="r2"))
        assert again == given
        assert not h.arm.asked and len(h.records()) == 2

    run(before, tmp_path)
    run(after, tmp_path)
    assert given[0]["expose"] and given[0]["model"]["version"] and given[1]["fallback_reason"] == "model_error"


OTHER_BODIES = [{"context": {**CONTEXT, "hour": 15}}, {"timestamp": "2026-01-01T12:00:00Z"}]


@pytest.mark.parametrize("other", OTHER_BODIES, ids=("context", "time"))
def test_another_request_with_the_same_id_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    async def scenario(h: Harness) -> None:
        (first,) = await h.predict(instance(request_id="r1"))
        batch = [instance("u2", request_id="r2"), instance(request_id="r1", **other)]
        response = await h.post("/v1/models/ads:predict", {"instances": batch})
        assert response.status_code == 409 and "instances[1]: the request_id was used before" in response.text
        assert len(h.records()) == 1 and h.router.decider.cache.in_progress == 0
        again, _ = await h.predict(instance(request_id="r1"), batch[0])
        assert again == first

    async def after_a_restart(h: Harness) -> None:
        response = await h.post("/v1/models/ads:predict", {"instances": [instance(request_id="r1", **other)]})
        assert response.status_code == 409

    run(scenario, tmp_path)
    run(after_a_restart, tmp_path)


def test_two_requests_with_one_id_in_one_body_are_refused(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        batch = [instance(request_id="r1"), instance(request_id="r1", context={**CONTEXT, "device": "tv"})]
        response = await h.post("/v1/models/ads:predict", {"instances": batch})
        assert response.status_code == 409 and not h.records() and h.router.decider.cache.in_progress == 0
        assert (await h.predict(batch[1]))[0]["expose"]

    run(scenario, tmp_path)


def test_the_same_request_may_be_written_otherwise(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        without = {name: CONTEXT[name] for name in ("device", "hour")}
        (first,) = await h.predict(
            instance(request_id="r1", timestamp="2026-01-01T12:00:00Z", context={**CONTEXT, "slot": None})
        )
        (again,) = await h.predict(
            instance(request_id="r1", timestamp="2026-01-01T13:00:00+01:00", context={**without, "hour": 14.0})
        )
        assert again == first

    run(scenario, tmp_path)


def test_a_fallback_is_repeated_as_well(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        h.arm.mode = 500
        (first,) = await h.predict(instance(request_id="r1"))
        h.arm.mode = "ok"
        assert await h.predict(instance(request_id="r1")) == [first] and first["fallback_reason"]

    run(scenario, tmp_path)


def test_the_answer_is_what_the_record_says(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        answers = await h.predict(instance(request_id="r1"))
        h.arm.mode = 500
        answers += await h.predict(instance())
        assert [prediction_of(record) for record in h.records()] == answers

    run(scenario, tmp_path)


def test_old_answers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.router.flow.idempotency_cache.MOST", 3)
    clock = [1000.0]
    monkeypatch.setattr("serving.router.flow.idempotency_cache.time.monotonic", lambda: clock[0])

    async def scenario() -> None:
        answers = IdempotencyCache()
        for i in range(5):
            answers.begin(str(i), "said")
            answers.give(str(i), {"decision_id": f"d{i}"})
        assert [answers.repeat(str(i), "said") is not None for i in range(5)] == [False, False, True, True, True]
        answers.forget("d3")
        answers.forget("unknown")
        assert answers.repeat("3", "said") is None and len(answers) == 2
        clock[0] += SECONDS + 1
        assert answers.repeat("4", "said") is None

    asyncio.run(scenario())


def test_a_request_that_was_decided_anew_is_not_forgotten_with_its_first_decision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr("serving.router.flow.idempotency_cache.time.monotonic", lambda: clock[0])

    async def scenario() -> None:
        answers = IdempotencyCache()
        for decision in ("first", "second"):  # the second after the first has expired
            answers.begin("r", None)
            answers.give("r", {"decision_id": decision})
            clock[0] += SECONDS + 1
        clock[0] -= SECONDS
        answers.forget("first")  # a late report says that its exposure was given back
        repeated = answers.repeat("r", None)
        assert isinstance(repeated, asyncio.Future) and repeated.result() == {"decision_id": "second"}
        assert len(answers._keys) == 1, "memory does not grow with every decision on a request"

    asyncio.run(scenario())


def test_a_second_attempt_touches_neither_the_money_nor_the_record_of_the_first(tmp_path: Path) -> None:
    """Another router, or one that has forgotten: the ledger alone knows that the request is paid for."""

    async def scenario(h: Harness) -> None:
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

    run(scenario, tmp_path, drills=True, deadline_ms=SHORT_DEADLINE)


@pytest.mark.parametrize("call", [(FeatureReader, "read"), (Arms, "ask")])
def test_a_bug_is_the_default_action_too_for_all_who_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: tuple[type, str]
) -> None:
    def answers_nothing(*_: Any) -> list[Any]:
        time.sleep(0.05)
        return []

    async def scenario(h: Harness) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(*call, answers_nothing)
            answers = await asyncio.gather(*(h.predict(instance(request_id="r1")) for _ in range(3)))
        assert {answer["fallback_reason"] for (answer,) in answers} == {"internal"}
        assert len({answer["decision_id"] for (answer,) in answers}) == 1
        assert h.router.decider.cache.in_progress == 0
        await h.until(lambda: not h.ledger.open_reservations())
        await h.until(lambda: [r["expose"] for r in h.records()][-1:] == [False])
        assert (await h.predict(instance()))[0]["expose"]

    run(scenario, tmp_path)


def test_a_record_that_can_not_be_made_is_no_exposure_and_no_reservation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    async def scenario(h: Harness) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(PendingDecision, "record", broken)
            (answer,) = await h.predict()
        assert answer["fallback_reason"] == "internal" and not answer["expose"]
        await h.until(lambda: not h.ledger.open_reservations())
        assert (await h.predict())[0]["expose"]

    run(scenario, tmp_path)


def test_an_exposure_that_was_given_back_is_decided_anew(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        (first,) = await h.predict(instance(request_id="r1"))
        await h.outcome(first["decision_id"], "cancel", 0.0)
        await h.until(lambda: h.balance(first["arm"]).reserved == 0)
        (second,) = await h.predict(instance(request_id="r1"))
        assert second["expose"] and second["decision_id"] != first["decision_id"]
        assert h.balance(first["arm"]).reserved == 0.05

    run(scenario, tmp_path)


def test_it_is_decided_anew_after_a_restart_too(tmp_path: Path) -> None:
    """The answer of before would expose with nothing set aside: its cost would be excess, beyond the cap."""
    given: list[dict[str, Any]] = []

    async def before(h: Harness) -> None:
        given.extend(await h.predict(instance(request_id="r1")))
        await h.outcome(given[0]["decision_id"], "cancel", 0.0)

    async def after(h: Harness) -> None:
        (again,) = await h.predict(instance(request_id="r1"))
        assert again["expose"] and again["decision_id"] != given[0]["decision_id"]
        assert h.balance(again["arm"]).reserved == 0.05

    run(before, tmp_path)
    run(after, tmp_path)


def test_a_request_id_is_that_of_a_campaign(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        one, other = await h.predict(instance(request_id="r"), instance(request_id="r", campaign_id="summer"))
        assert one["decision_id"] != other["decision_id"] and h.balance(one["arm"]).reserved == 0.1

    run(scenario, tmp_path)


def test_a_caller_that_gives_up_leaves_a_record_and_harms_nobody(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        h.arm.mode = "hold"
        body = {"instances": [instance(request_id="r1"), instance()]}
        impatient = [asyncio.create_task(h.post("/v1/models/ads:predict", body)) for _ in range(3)]
        patient = asyncio.create_task(h.post("/v1/models/ads:predict", body))
        await h.until(lambda: len(h.arm.asked) >= 2)
        for task in impatient:
            task.cancel()
        h.arm.release.set()
        answer = await patient
        assert answer.status_code == 200 and answer.json()["predictions"][0]["expose"]
        h.arm.mode = "ok"
        await h.router.decider.drain()
        assert len({r["decision_id"] for r in h.records()}) == len(h.ledger.open_reservations()) == len(h.records())
        assert h.router.decider.cache.in_progress == 0
        await h.until(lambda: h.gateway.decisions.inside == 0)
        (again,) = await h.predict(instance(request_id="r1"))
        assert again == answer.json()["predictions"][0]

    run(scenario, tmp_path)
