"""Tests that a lane works on all waiting decisions as one batch, and completes each once."""

import asyncio
import random
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from serving.ledger.contract import Wanted
from serving.router.flow.arms import Arms
from serving.router.flow.decider import Lane
from tests.serving.router_fixtures import SHORT_DEADLINE, Harness, decision, instance, only, with_router
from tests.waiting import until

LONG = 60.0


def some(count: int = 1) -> list[Any]:
    return [SimpleNamespace(taken_over=False, done=False) for _ in range(count)]


async def test_waiting_decisions_share_a_batch() -> None:
    batches: list[int] = []
    go = threading.Event()

    def work(decisions: Sequence[Any]) -> None:
        batches.append(len(decisions))
        go.wait(LONG)

    lane = Lane("test", work)
    held = [lane.put(some()) for _ in range(2)]
    await until(lambda: sum(batches) == 2)  # both threads have work
    rest = [*(lane.put(some()) for _ in range(30)), lane.put(some(100))]
    go.set()
    await asyncio.gather(*held, *rest)
    lane.close()
    assert sum(batches) == 132 and len(batches) <= 6, batches


async def test_hanging_threads_with_answered_decisions_delay_no_others() -> None:
    """Each hanging batch has an answered decision and one whose result is ignored, so nothing waits for it."""
    go, began = threading.Event(), threading.Semaphore(0)

    def work(decisions: Sequence[Any]) -> None:
        began.release()
        if len(decisions) == 2:
            go.wait(2 * LONG)

    lane = Lane("test", work)
    for _ in range(2):
        hang = some(2)
        lane.put(hang)
        await until(lambda: began.acquire(blocking=False))
        hang[0].done, hang[1].taken_over = True, True
    try:
        assert await asyncio.wait_for(lane.put(some()), LONG) is None
    finally:
        go.set()
        lane.close()


@with_router(deadline_ms=SHORT_DEADLINE)
async def test_an_arm_whose_calls_never_return_holds_few_threads(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    go, predict, calls = threading.Event(), Arms.predict, 0

    def hang(arms: Arms, experiment: Any, arm: Any, *asked: Any) -> Any:
        nonlocal calls
        if arm.name == "challenger":
            calls += 1
            go.wait(LONG)
        return predict(arms, experiment, arm, *asked)

    monkeypatch.setattr(Arms, "predict", hang)
    of_arm: dict[str, list[dict[str, Any]]] = {"incumbent": [], "challenger": []}
    for number in range(60):
        user = instance(str(number), baseline={"channel": "search", "expose": True})
        of_arm[only(h.router.live).arm_of(str(number))[0]].append(user)
    late = [asyncio.create_task(h.predict(user)) for user in of_arm["challenger"][:5]]
    await until(lambda: calls == 2)
    assert (await h.predict(of_arm["incumbent"][0]))[0]["fallback_reason"] is None
    for (answer,) in [*await asyncio.gather(*late), await h.predict(of_arm["challenger"][5])]:
        assert answer["fallback_reason"] in {"model_timeout", "no_time"} and not answer["expose"]
    for user in of_arm["challenger"][6:]:
        (answer,) = await h.predict(user)
        assert answer["fallback_reason"] == "model_error" and answer["expose"]
    assert calls == 3
    go.set()


@with_router(deadline_ms=SHORT_DEADLINE)
async def test_decisions_that_skip_a_stage_do_not_wait_for_it(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger hangs for a decision with an exposure; one without must not wait."""
    go, reserve_all = threading.Event(), h.ledger.reserve_all
    monkeypatch.setattr(h.ledger, "reserve_all", lambda wanted: (go.wait(LONG), reserve_all(wanted))[1])
    shown, kept = [user for user in map(str, range(99)) if only(h.router.live).arm_of(user)[0] == "incumbent"][:2]
    h.arm.mode = lambda item: decision(expose=item["user_id"] == shown)
    answers = await h.predict(instance(shown), instance(kept))
    assert [answer["fallback_reason"] for answer in answers] == ["ledger", None]
    assert not any(record["expose"] or record["withdrawn"] for record in h.records_of(answers))
    go.set()
    await until(h.holds_nothing)


@with_router(deadline_ms=SHORT_DEADLINE)
async def test_a_decision_is_completed_or_taken_over_not_both(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    chance, ends = random.Random(0), SHORT_DEADLINE / 1000
    began = time.monotonic()
    reserve_all, write = h.ledger.reserve_all, h.spool.write

    def sleep_until(end: float) -> None:
        time.sleep(max(0.0, began + (end + chance.uniform(-0.01, 0.01)) * ends - time.monotonic()))

    def reserve(wanted: Sequence[Wanted]) -> list[bool | Exception]:
        granted = reserve_all(wanted)
        if chance.random() < 0.5:
            sleep_until(0.85)
        return granted

    def slowly(kind: Any, records: Sequence[Any], seconds: float) -> None:
        write(kind, records, 10.0)
        sleep_until(0.9)

    monkeypatch.setattr(h.ledger, "reserve_all", reserve)
    monkeypatch.setattr(h.spool, "write", slowly)
    answers = [answer for (answer,) in await asyncio.gather(*(h.predict(instance(f"u{i}")) for i in range(6)))]
    exposed = {answer["decision_id"] for answer in answers if answer["expose"]}
    await until(lambda: set(h.ledger.open_reservations()) == exposed)
    withdrawn = {record["decision_id"] for record in h.records() if record["withdrawn"]}
    shown = {record["decision_id"] for record in h.records() if record["expose"]}
    assert shown - withdrawn == exposed


@with_router()
async def test_a_decision_without_a_thread_is_the_default_action(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", lambda _: (_ for _ in ()).throw(RuntimeError("can't start new thread")))
        asked = instance(request_id="r")
        (answer,) = await h.predict(asked)
        assert answer["fallback_reason"] == "internal" and not answer["expose"]
        assert await h.predict(asked) == [answer]
    (answer,) = await h.predict(instance())
    assert answer["expose"]
    assert len(h.records()) == 2
