"""Tests that an internal fault gives the default action and leaves no money reserved."""

import asyncio
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from mtorl.window.window import AD_DECISION
from serving.ledger.contract import LedgerUnavailable
from serving.messages import LOG_NOT_WRITTEN
from serving.router.flow import decider
from serving.router.flow.admission import Deadline
from serving.router.flow.features import FeastSource
from serving.router.flow.stages import FAILURES, SILENT_SECONDS, CircuitBreaker
from tests.features.online_stores import apply_history, write_settings
from tests.redis_server import redis_server
from tests.repository import ROOT
from tests.serving.router_fixtures import (
    SHORT_DEADLINE,
    SPEC,
    Harness,
    decision,
    full_disk,
    instance,
    only,
    running,
    sample,
    with_router,
)
from tests.waiting import until


def _mode(mode: Any) -> Callable[[Harness], None]:
    return lambda h: setattr(h.arm, "mode", mode)


def _raw(text: str) -> Callable[[Harness], None]:
    return _mode(text.encode())


def _lock_ledger(h: Harness) -> None:
    blocker = sqlite3.connect(h.ledger.path, isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")
    release = threading.Timer(3.0, lambda: (blocker.execute("ROLLBACK"), blocker.close()))
    release.start()


OWN_LOGIC = {"channel": "search", "expose": True, "propensity": 0.4}
FAULTS: dict[str, tuple[str, Callable[[Harness], Any]]] = {
    "feature store raises": ("features", lambda h: setattr(h.features, "fault", OSError("gone"))),
    "feature store is slow": ("features", lambda h: setattr(h.features, "seconds", 1.5)),
    "a history that is not one": ("features", lambda h: h.features.users["u1"].history.update(hist_click=[1, 1])),
    "arm refuses": ("model_error", lambda h: h.arm.stop()),
    "arm is slow": ("model_timeout", _mode("hang")),
    "arm hangs up": ("model_error", _mode("hang-up")),
    "arm answers 500": ("model_error", _mode(500)),
    "arm answers garbage": ("model_error", _raw("<html>")),
    "arm answers no prediction": ("model_error", _raw('{"predictions": []}')),
    "unknown channel": ("model_error", _mode(lambda _: decision(channel="tv"))),
    "ledger is locked": ("ledger", _lock_ledger),
    "ledger is missing": ("ledger", lambda h: h.ledger.path.unlink()),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_an_internal_fault_gives_the_default_action(tmp_path: Path, fault: str) -> None:
    reason, strike = FAULTS[fault]
    async with running(tmp_path, deadline_ms=SHORT_DEADLINE if "slow" in fault or "locked" in fault else 20_000) as h:
        if asyncio.iscoroutine(waits := strike(h)):
            await waits
        arm = only(h.router.live).arm_of("u1")[0]
        before = sample("mtorl_fallbacks_total", arm=arm, reason=reason)
        answer, own = await h.predict(instance(), instance(baseline=OWN_LOGIC))
        assert answer["fallback_reason"] == own["fallback_reason"] == reason
        assert (answer["channel"], answer["expose"], answer["propensity"]) == ("search", False, 1.0)
        assert answer["reservation_id"] is None and answer["model"] is None and answer["arm"] == arm
        assert sample("mtorl_fallbacks_total", arm=arm, reason=reason) == before + 2
        record, of_own = h.records_of([answer, own])
        assert (record["fallback_reason"], record["expose"], record["reserved"]) == (reason, False, 0.0)
        # The baseline is the default action, exposed unless the ledger has the fault.
        assert (own["channel"], own["propensity"], of_own["baseline"]) == ("search", 0.4, OWN_LOGIC)
        assert own["expose"] == (reason != "ledger") == (own["reservation_id"] is not None)
        assert of_own["reserved"] == 0.6 * own["expose"]
        assert of_own["drawn_channel"] == ("video" if reason == "ledger" else None)
        if own["expose"]:
            assert h.balance(arm).reserved == 0.6
        elif fault != "ledger is missing":
            await until(h.holds_nothing)


def open_breaker_after(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a circuit breaker open for an hour after this number of failures."""
    for name, value in (("FAILURES", failures), ("SILENT_SECONDS", 0.0), ("_PAUSE_SECONDS", 3600.0)):
        monkeypatch.setattr(f"serving.router.flow.stages.{name}", value)


@pytest.mark.parametrize("part", ["model", "features"])
@with_router(deadline_ms=SHORT_DEADLINE)
async def test_the_circuit_breaker_of_a_part_opens_and_closes_again(
    h: Harness, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    # The clock stands still while the circuit breaker is open.
    clock = [1000.0]
    monkeypatch.setattr("serving.router.flow.stages.monotonic", lambda: clock[0])
    open_breaker_after(6, monkeypatch)
    reads = 0
    read = h.features.read

    def counted(requests: Any) -> Any:
        nonlocal reads
        reads += 1
        return read(requests)

    monkeypatch.setattr(h.features, "read", counted)
    h.arm.mode = "hang" if part == "model" else "ok"
    h.features.fault = OSError("away") if part == "features" else None
    one = instance("u1", request_id=None)
    arm = (await h.predict(one))[0]["arm"]
    # With so many requests at once, some have to wait for a thread.
    for _ in range(6):
        await asyncio.gather(*(h.predict(one) for _ in range(6)))
    asked, read_before = len(h.arm.asked), reads
    answers = await asyncio.gather(*(h.predict(one) for _ in range(5)))
    # No request waits for the broken part any more, so the reason is not "model_timeout".
    assert {answer["fallback_reason"] for (answer,) in answers} == {"model_error" if part == "model" else "features"}
    assert len(h.arm.asked) == asked and (part == "model" or reads == read_before)
    h.arm.mode, h.features.fault = "ok", None
    clock[0] += 3601.0  # the pause is over
    (found,) = await h.predict(one)
    assert found["expose"] and found["arm"] == arm
    assert all(answer["expose"] for (answer,) in await asyncio.gather(*(h.predict(one) for _ in range(5))))


@with_router(deadline_ms=SHORT_DEADLINE)
async def test_a_feature_redis_that_hangs_times_out_and_is_used_again_later(
    h: Harness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A suspended Redis accepts connections but never answers, so the read must time out."""
    settings = yaml.safe_load((ROOT / "manifests/base/router/config/feature_store.yaml").read_text())["online_store"]
    options = [one for one in settings["connection_string"].split(",")[1:] if not one.startswith("password=")]
    with redis_server(tmp_path) as port:
        repo = tmp_path / "repo"
        write_settings(repo, "redis", connection_string=",".join([f"127.0.0.1:{port}", *options]))
        apply_history(repo, SPEC)
        monkeypatch.setattr(h.features, "read", FeastSource(repo, AD_DECISION).read)
        assert (await h.predict())[0]["fallback_reason"] is None
        process = redis.Redis(port=port).info("server")["process_id"]
        os.kill(process, signal.SIGSTOP)
        try:
            (answer,) = await h.predict(instance(baseline=OWN_LOGIC))
        finally:
            os.kill(process, signal.SIGCONT)
        assert answer["fallback_reason"] == "features" and answer["expose"], "not taken over, which exposes nothing"
        assert (await h.predict())[0]["fallback_reason"] is None


@pytest.mark.parametrize("call", ["write", "fdatasync"])
@with_router()
async def test_log_faults_expose_and_reserve_nothing(h: Harness, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def said() -> Any:
        return h.router.health.ready(lambda: h.spool.alive)[1]["parts"]["decision_log"]

    arm = only(h.router.live).arm_of("u1")[0]
    before = sample("mtorl_fallbacks_total", arm=arm, reason="log")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, lambda file, *data: full_disk(file, data))
        (answer,) = await h.predict()
        assert (answer["fallback_reason"], answer["expose"], answer["propensity"]) == ("log", False, 1.0)
        await until(h.holds_nothing)
        assert sample("mtorl_fallbacks_total", arm=arm, reason="log") == before + 1
        await until(lambda: said() == LOG_NOT_WRITTEN(error="[Errno 28] No space left on device"))
        assert sample("mtorl_spool_writable") == 0
    # Once the disk has space again, the decision must be logged, because verdicts count its default action.
    await until(lambda: len(h.records()) == 1)
    (record,) = h.records()
    assert record["decision_id"] == answer["decision_id"] and record["withdrawn"]
    assert record["fallback_reason"] == "log" and not record["expose"]
    await until(lambda: said() == "ok")
    assert sample("mtorl_spool_writable") == 1 and sample("mtorl_spool_lost_records") == 0
    assert sample("mtorl_spool_free_bytes") > 0
    (answer,) = await h.predict()
    assert answer["expose"] and h.records()[-1]["decision_id"] == answer["decision_id"]


@pytest.mark.parametrize("seconds", [0.1, 60.0])
@with_router(deadline_ms=SHORT_DEADLINE)
async def test_money_is_released_after_its_withdrawal_is_logged_or_the_log_has_hung_for_long(
    h: Harness, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """If money were released first, a crash could leave an exposure in the log without reserved money."""
    monkeypatch.setattr(decider, "WITHDRAWAL_SECONDS", seconds)
    released: list[list[bool]] = []
    gate, sync, cancel = threading.Event(), os.fdatasync, h.ledger.cancel_all

    def watched(reservation_ids: Any) -> Any:
        released.append([record["withdrawn"] for record in h.records()])
        return cancel(reservation_ids)

    monkeypatch.setattr(h.ledger, "cancel_all", watched)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda file: (gate.wait(60), sync(file))[1])
        (answer,) = await h.predict()
        assert (answer["fallback_reason"], answer["expose"]) == ("log", False)
        if seconds < 1:
            await until(lambda: released and h.holds_nothing())
        gate.set()
        await until(lambda: released and h.holds_nothing() and len(h.records()) == 2)
    assert seconds < 1 or released == [[False, True]]
    first, second = h.records()
    assert first["decision_id"] == second["decision_id"] == answer["decision_id"]
    assert first["expose"] and not second["expose"] and second["fallback_reason"] == "log"


@with_router()
async def test_a_connection_that_the_arm_closed_is_no_fault(h: Harness) -> None:
    h.arm.mode = "hang-up once"
    (answer,) = await h.predict()
    assert answer["fallback_reason"] is None and len(h.arm.asked) == 2


@pytest.mark.parametrize("stage", ["model", "ledger"])
@with_router(deadline_ms=20_000)
async def test_a_stage_that_is_too_late_does_not_start(h: Harness, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    left = Deadline.left
    monkeypatch.setattr(Deadline, "left", lambda self, name: 0.0 if name == stage else left(self, name))
    (answer,) = await h.predict()
    assert answer["fallback_reason"] == "no_time" and h.holds_nothing()


@with_router(deadline_ms=SHORT_DEADLINE)
async def test_a_slow_stage_may_use_the_time_that_others_do_not_need(h: Harness) -> None:
    h.features.seconds = 0.4 * SHORT_DEADLINE / 1000
    (answer,) = await h.predict()
    assert answer["fallback_reason"] is None and answer["expose"]


def test_a_stage_gets_the_time_that_earlier_stages_left() -> None:
    deadline = Deadline(1.0)
    assert 0 < deadline.left("features") < deadline.left("model") < deadline.left("ledger") < deadline.left("log") <= 1
    spent = Deadline(1e-9)
    assert spent.left("ledger") < 0 < spent.left("log")


def test_a_circuit_breaker_opens_only_after_a_period_of_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("serving.router.flow.stages.monotonic", lambda: clock[0])
    breaker = CircuitBreaker()
    for _ in range(10 * FAILURES):  # all requests that one short delay affected
        breaker.report(False, 1)
    assert [breaker.allows_call() for _ in range(3)] == [True] * 3
    clock[0] += SILENT_SECONDS
    breaker.report(False, 1)
    assert [breaker.allows_call() for _ in range(3)] == [True, False, False]  # a single test call
    breaker.report(True, 1)
    assert breaker.allows_call()


@with_router(deadline_ms=SHORT_DEADLINE)
async def test_a_hung_ledger_is_not_called_but_a_refusing_one_is(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    open_breaker_after(3, monkeypatch)
    calls = 0
    released = threading.Event()

    def counted(decisions: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 8:
            released.wait(60)
        raise LedgerUnavailable("refused")

    monkeypatch.setattr(h.router.budgets, "reserve", counted)
    answers = [await h.predict() for _ in range(15)]
    assert {answer["fallback_reason"] for (answer,) in answers} == {"ledger"}
    assert calls == 8 + 3  # no test call while three calls hang
    released.set()
    await until(lambda: not h.router.decider._stages.parts._breakers["ledger"].ends)
    await h.predict()
    assert calls == 8 + 3 + 1


@with_router(deadline_ms=SHORT_DEADLINE)
async def test_a_part_that_always_answers_too_late_is_not_called(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    open_breaker_after(4, monkeypatch)
    calls = back = 0
    read = h.features.read

    def late(asked: Any) -> Any:
        nonlocal calls, back
        calls += 1
        time.sleep(SHORT_DEADLINE / 1000)
        back += 1
        return read(asked)

    monkeypatch.setattr(h.features, "read", late)
    for _ in range(8):
        (answer,) = await h.predict()
        assert answer["fallback_reason"] == "features"
        await until(lambda: back == calls)
    assert calls <= 5
