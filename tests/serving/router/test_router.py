"""The router: what it decides, what it refuses, and that nothing that breaks inside reaches the caller as a 5xx."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from mtorl.experiment.assignment import uniform
from mtorl.log.records import json_schema
from mtorl.log.times import microseconds
from serving.decision_log import Spool
from serving.ledger import Account, Balance, SqliteLedger, Wanted
from serving.local.ports import free_ports
from serving.router.flow.budgets import reconcile
from serving.router.flow.stages import Deadline
from serving.router.ops import metrics
from serving.router.ops.settings import RouterSettings, SettingsError
from serving.throttle import OncePerSecond
from tests.serving.ledgers import Place
from tests.serving.router_fixtures import (
    CONTEXT,
    COST_CAP,
    SPEC,
    FakeArm,
    Harness,
    decision,
    instance,
    running,
    sample,
    write_settings,
)

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.filterwarnings("ignore:ORJSONResponse is deprecated")


def run(scenario: Callable[[Harness], Awaitable[None]], folder: Path, **options: Any) -> None:
    """Run a scenario against a router of its own."""

    async def inside() -> None:
        async with running(folder, **options) as harness:
            await scenario(harness)

    asyncio.run(inside())


# ---- what it decides


def test_a_decision_is_reserved_logged_and_answered(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
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

    run(scenario, tmp_path)


def test_the_arm_gets_the_window_and_a_reproducible_draw(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        now = datetime.now(UTC)
        h.features.users["u2"] = h.features.users["u1"]
        await h.predict(instance(request_id="r1", timestamp=now.isoformat()))
        await h.predict(instance("u2", request_id="r1", timestamp=now.isoformat()))
        (answer,) = await h.predict(instance(timestamp=now.isoformat()))
        first, second, third = (item for _, item in h.arm.asked)
        assert first == second
        assert first["u"] == uniform("s", "decision", "r1") and third["u"] == uniform(
            "s", "decision", answer["decision_id"]
        )
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

    run(scenario, tmp_path)


def test_a_decision_sees_what_was_before_its_own_time(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        shown = datetime.fromtimestamp(h.features.users["u1"].history["hist_timestamp"][0] / 1e6, UTC)
        soon = datetime.now(UTC) + timedelta(seconds=50)  # a caller's clock may be a little ahead
        for when in (shown, shown + timedelta(microseconds=1), soon):
            await h.predict(instance(timestamp=when.isoformat()))
        await h.predict(instance())
        seen = [item["window"]["prev_channel"] for _, item in h.arm.asked]
        assert seen == [[None], [None, "video"], [None, "video"], [None, "video"]]

    run(scenario, tmp_path)


def test_the_feature_hash_is_that_of_all_features(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        known = h.features.users["u1"]
        now = datetime.now(UTC).isoformat()
        for aggregates in (
            {},
            {"campaign_touchpoints": 5.0},
            {"campaign_touchpoints": 6.0},
            {"campaign_touchpoints": 5.0},
        ):
            h.features.users["u1"] = replace(known, aggregates=aggregates)
            await h.predict(instance(timestamp=now))
        first, *others = (record["feature_hash"] for record in h.records())
        assert first not in others and others[0] != others[1] and others[0] == others[2]

    run(scenario, tmp_path)


def test_users_are_sticky_and_split_as_the_experiment_says(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        users = [f"u{i}" for i in range(60)]
        first = [p["arm"] for p in await h.predict(*map(instance, users))]
        assert first == [p["arm"] for p in await h.predict(*map(instance, users))]
        assert first == [h.router.live.experiment.arm_of(user)[0] for user in users] and set(first) == {
            "incumbent",
            "challenger",
        }
        assert [record["assignment_probability"] for record in h.records()] == [0.5] * 120

    async def asked_arms(h: Harness) -> None:
        await h.predict(*(instance(f"u{i}") for i in range(20)))
        assert {arm for arm, _ in h.arm.asked} == {"incumbent"}
        assert {(r["arm"], r["assignment_probability"]) for r in h.records()} == {("incumbent", 1.0)}

    run(scenario, tmp_path)
    for name, changes in (("shadow", {"stage": "shadow"}), ("off", {"enabled": False})):
        folder = tmp_path / name
        folder.mkdir()
        run(asked_arms, folder, changes=changes)


def test_a_paced_budget_has_a_price_for_each_channel(tmp_path: Path) -> None:
    paced = {"campaign": "*", "channel": "*", "amount": 50.0, "period": "day", "pacing": {"price": 0.4}}

    async def scenario(h: Harness) -> None:
        await h.until(lambda: h.router.budgets.pacer.prices("incumbent", "spring"))
        await h.predict()
        assert set(h.arm.asked[-1][1]["price"]) == {"search", "video"}
        assert sample("mtorl_budget_price", arm="incumbent") > 0

    async def without(h: Harness) -> None:
        await h.predict()
        assert "price" not in h.arm.asked[-1][1]

    run(scenario, tmp_path, changes={"budgets": [paced]})
    (tmp_path / "other").mkdir()
    run(without, tmp_path / "other")


def test_an_unknown_user_is_no_fault(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        (answer,) = await h.predict(instance("stranger"))
        assert answer["expose"] and answer["fallback_reason"] is None
        assert h.records()[0]["features_found"] is False
        assert h.arm.asked[0][1]["window"]["prev_channel"] == [None]

    run(scenario, tmp_path)


def test_what_the_arm_does_not_expose_costs_nothing(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        h.arm.mode = lambda _: decision(expose=False, price=0.4)
        (answer,) = await h.predict()
        assert (answer["expose"], answer["channel"], answer["fallback_reason"]) == (False, "video", None)
        assert h.ledger.open_reservations() == [] and h.records()[0]["price"] == 0.4

    run(scenario, tmp_path)


def test_an_exhausted_budget_is_no_fault_and_no_exposure(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        answers = [(await h.predict())[0] for _ in range(4)]  # 0.12 for the arm, 0.05 a decision
        assert [a["expose"] for a in answers] == [True, True, False, False]
        assert [a["budget_exhausted"] for a in answers] == [False, False, True, True]
        assert {a["fallback_reason"] for a in answers} == {None} and {a["channel"] for a in answers} == {"video"}
        assert [r["budget_exhausted"] for r in h.records()] == [False, False, True, True]

    run(scenario, tmp_path, changes={"budgets": [{"campaign": "*", "channel": "*", "amount": 0.24}]})


# ---- outcomes


def test_a_cost_settles_a_cancel_gives_back_and_nothing_counts_twice(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        first, second = [(await h.predict())[0] for _ in range(2)]
        arm, ids = first["arm"], (first["decision_id"], second["decision_id"])
        assert await h.outcome(ids[0], "cost", 0.02, "c") == {"accepted": 1, "duplicate": 0, "dangling": 0}
        assert await h.outcome(ids[0], "cost", 0.02, "c") == {"accepted": 0, "duplicate": 1, "dangling": 0}
        assert await h.outcome(ids[0], "click", 1.0, "k") == {"accepted": 1, "duplicate": 0, "dangling": 0}
        assert await h.outcome(ids[1], "cancel", 0.0, "x") == {"accepted": 1, "duplicate": 0, "dangling": 0}
        assert await h.outcome("unheard-of", "cost", 9.0, "d") == {"accepted": 0, "duplicate": 0, "dangling": 1}
        found = h.balance(arm)
        assert (found.spent, found.reserved, found.excess) == (0.02, 0.0, 0.0)
        jsonschema.Draft202012Validator(json_schema("outcome")).validate(next(h.spool.read("outcome")))

    run(scenario, tmp_path)


def test_an_outcome_is_kept_while_the_ledger_is_away_and_settled_when_it_is_back(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        (answer,) = await h.predict()
        blocker = sqlite3.connect(h.ledger.path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        assert (await h.outcome(answer["decision_id"], "cost", 0.02))["accepted"] == 1
        blocker.execute("ROLLBACK")
        blocker.close()
        await h.until(lambda: h.balance(answer["arm"]).spent == 0.02)

    run(scenario, tmp_path, deadline_ms=600)


def test_an_outcome_that_is_not_on_disk_is_not_called_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(h: Harness) -> None:
        (answer,) = await h.predict()
        event = {"event_id": "e", "decision_id": answer["decision_id"], "kind": "click", "value": 1}
        body = {"outcomes": [{**event, "event_time": "2026-01-01T12:00:00Z"}]}
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", _full_disk)
            response = await h.post("/v1/outcomes", body)
        assert response.status_code == 503 and "send all of it again" in response.json()["error"]
        assert (await h.post("/v1/outcomes", body)).json()["accepted"] == 1

    run(scenario, tmp_path)


def test_a_crash_between_ledger_and_log_is_put_in_order_at_the_next_start(tmp_path: Path) -> None:
    ledger, spool = SqliteLedger(tmp_path / "ledger.sqlite"), Spool(tmp_path / "spool")
    ledger.define([Account("a", "*", "*", 1.0)])
    golden = json.loads((Path(__file__).parents[1] / "golden" / "decision.json").read_text())
    event = json.loads((Path(__file__).parents[1] / "golden" / "outcome.json").read_text())
    for name in ("never-logged", "waits", "withdrawn", "has-a-cost", "was-cancelled"):
        ledger.reserve(name, "a", "c", "video", 0.1)
        if name != "never-logged":
            spool.submit("decision", {**golden, "decision_id": name, "reservation_id": name}).result()
    spool.submit("decision", {**golden, "decision_id": "withdrawn", "withdrawn": True}).result()
    for name, kind in (("has-a-cost", "cost"), ("was-cancelled", "cancel"), ("waits", "click")):
        spool.submit("outcome", {**event, "event_id": name, "decision_id": name, "kind": kind, "value": 0.04}).result()
    assert reconcile(ledger, spool) == 4
    assert ledger.open_reservations() == ["waits"]
    assert [(b.spent, b.reserved) for b in ledger.balances()] == [(0.04, 0.1)]
    assert reconcile(ledger, spool) == 0
    spool.close()


def test_a_decision_says_whose_log_holds_it(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        answers = [*await h.predict(instance(), instance("u2")), *await h.predict(instance())]
        names = {answer["decision_id"] for answer in answers}
        assert len(names) == 3 and all(name.startswith(h.spool.identity) and len(name) == 32 for name in names)
        assert set(h.ledger.open_reservations()) <= names and h.ledger.open_reservations()

    run(scenario, tmp_path)


def test_a_router_that_shares_its_ledger_finishes_only_what_is_its_own(tmp_path: Path, lasting_redis: int) -> None:
    ledger, spool = Place("redis", tmp_path, lasting_redis).open(), Spool(tmp_path / "spool")
    ledger.define([Account("a", "*", "*", 1.0)])
    golden = json.loads((Path(__file__).parents[1] / "golden" / "decision.json").read_text())
    event = json.loads((Path(__file__).parents[1] / "golden" / "outcome.json").read_text())
    lost = f"{spool.identity}-never-logged"
    for name in ("another's", "another's, with a cost", lost, "waits", "withdrawn", "has-a-cost"):
        ledger.reserve(name, "a", "c", "video", 0.1)
        if name != lost and not name.startswith("another"):
            spool.submit("decision", {**golden, "decision_id": name, "reservation_id": name}).result()
    spool.submit("decision", {**golden, "decision_id": "withdrawn", "withdrawn": True}).result()
    for name in ("has-a-cost", "another's, with a cost"):
        told = {"event_id": name, "decision_id": name, "kind": "cost", "value": 0.04}
        spool.submit("outcome", {**event, **told}).result()
    assert reconcile(ledger, spool) == 4
    assert sorted(ledger.open_reservations()) == ["another's", "waits"]
    assert [(b.spent, b.reserved) for b in ledger.balances()] == [(0.08, 0.2)]
    assert reconcile(ledger, spool) == 0
    spool.close()


# ---- inner faults


def _full_disk(file: int, data: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def _mode(mode: Any) -> Callable[[Harness], None]:
    return lambda h: setattr(h.arm, "mode", mode)


def _answers(**changes: Any) -> Callable[[Harness], None]:
    return _mode(lambda _: decision(**changes))


def _raw(text: str) -> Callable[[Harness], None]:
    return _mode(text.encode())


def _lock_ledger(h: Harness) -> None:
    blocker = sqlite3.connect(h.ledger.path, isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")
    release = threading.Timer(1.0, lambda: (blocker.execute("ROLLBACK"), blocker.close()))
    release.start()


FAULTS: dict[str, tuple[str, Callable[[Harness], Any]]] = {
    "feature store raises": ("features", lambda h: setattr(h.features, "fault", OSError("gone"))),
    "feature store is slow": ("features", lambda h: setattr(h.features, "seconds", 0.5)),
    "a history that is not one": ("features", lambda h: h.features.users["u1"].history.update(hist_click=[1, 1])),
    "arm refuses": ("model_error", lambda h: h.arm.stop()),
    "arm is slow": ("model_timeout", _mode("slow")),
    "arm hangs up": ("model_error", _mode("hang-up")),
    "arm answers 500": ("model_error", _mode(500)),
    "arm answers 503": ("model_error", _mode(503)),
    "arm answers garbage": ("model_error", _raw("<html>")),
    "arm answers nothing": ("model_error", _raw("")),
    "arm answers a list": ("model_error", _raw("[1]")),
    "arm answers no prediction": ("model_error", _raw('{"predictions": []}')),
    "arm answers null": ("model_error", _raw('{"predictions": [null]}')),
    "arm answers text": ("model_error", _raw('{"predictions": ["video"]}')),
    "arm answers NaN": ("model_error", _raw(json.dumps({"predictions": [decision(expected_reward=float("nan"))]}))),
    "arm answers infinity": (
        "model_error",
        _raw('{"predictions": [' + json.dumps(decision()).replace("0.03", "1e999") + "]}"),
    ),
    "arm has an error": ("model_error", _mode(lambda _: {"error": "no such channel"})),
    "unknown channel": ("model_error", _answers(channel="tv")),
    "unknown channel in the probabilities": ("model_error", _answers(channel_probs={"tv": 0.25, "video": 0.75})),
    "channel is a list": ("model_error", _answers(channel=["video"])),
    "probabilities that do not add up": ("model_error", _answers(channel_probs={"search": 0.1, "video": 0.75})),
    "propensity of another channel": ("model_error", _answers(propensity=0.25)),
    "propensity zero": ("model_error", _answers(propensity=0.0, channel_probs={"search": 1.0, "video": 0.0})),
    "reward is null": ("model_error", _answers(expected_reward=None)),
    "cost is negative": ("model_error", _answers(expected_cost=-0.1)),
    "expose is a number": ("model_error", _answers(expose=1)),
    "model without a name": ("model_error", _answers(model={})),
    "ledger is locked": ("ledger", _lock_ledger),
    "ledger is missing": ("ledger", lambda h: h.ledger.path.unlink()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_inside_is_the_default_action(tmp_path: Path, fault: str) -> None:
    reason, strike = FAULTS[fault]

    async def scenario(h: Harness) -> None:
        if asyncio.iscoroutine(waits := strike(h)):
            await waits
        arm = h.router.live.experiment.arm_of("u1")[0]
        before = sample("mtorl_fallbacks_total", arm=arm, reason=reason)
        (answer,) = await h.predict()
        assert answer["fallback_reason"] == reason
        assert (answer["channel"], answer["expose"], answer["propensity"]) == ("search", False, 1.0)
        assert answer["reservation_id"] is None and answer["model"] is None and answer["arm"] == arm
        assert sample("mtorl_fallbacks_total", arm=arm, reason=reason) == before + 1
        (record,) = h.records()
        jsonschema.Draft202012Validator(json_schema("decision")).validate(record)
        assert (record["fallback_reason"], record["expose"], record["reserved"]) == (reason, False, 0.0)
        if fault != "ledger is missing":
            await h.until(lambda: _no_reservation(h))

    run(scenario, tmp_path, deadline_ms=500 if "slow" in fault or "locked" in fault else 5000)


def _no_reservation(h: Harness) -> bool:
    try:
        return h.ledger.open_reservations() == [] and all(b.reserved == 0 for b in h.ledger.balances())
    except Exception:
        return False


@pytest.mark.parametrize("part", ["model", "features"])
def test_a_part_that_hangs_is_left_alone_for_a_moment_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    clock = [1000.0]  # stands still while the part is left alone
    monkeypatch.setattr("serving.router.flow.stages.monotonic", lambda: clock[0])
    reads = 0

    async def scenario(h: Harness) -> None:
        read = h.features.read

        def counted(requests: Any) -> Any:
            nonlocal reads
            reads += 1
            return read(requests)

        monkeypatch.setattr(h.features, "read", counted)
        h.arm.mode = "slow" if part == "model" else "ok"
        h.features.fault = OSError("away") if part == "features" else None
        one = instance("u1", request_id=None)
        arm = (await h.predict(one))[0]["arm"]
        for _ in range(4):  # more at once than ask it at a time
            await asyncio.gather(*(h.predict(one) for _ in range(6)))
        asked, read_before = len(h.arm.asked), reads
        answers = await asyncio.gather(*(h.predict(one) for _ in range(5)))
        # Not "model_timeout": nobody waited for it.
        assert {answer["fallback_reason"] for (answer,) in answers} == {
            "model_error" if part == "model" else "features"
        }
        assert len(h.arm.asked) == asked and (part == "model" or reads == read_before)
        h.arm.mode, h.features.fault = "ok", None
        clock[0] += 3600.0  # the moment is over
        (found,) = await h.predict(one)
        assert found["expose"] and found["arm"] == arm
        assert all(answer["expose"] for (answer,) in await asyncio.gather(*(h.predict(one) for _ in range(5))))

    run(scenario, tmp_path, deadline_ms=1000)


def test_a_ledger_that_answers_too_late_leaves_nothing_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(h: Harness) -> None:
        reserve_all, done = h.ledger.reserve_all, threading.Event()

        def late(wanted: Sequence[Wanted]) -> list[bool | Exception]:
            time.sleep(1.0)
            granted = reserve_all(wanted)
            done.set()
            return granted

        monkeypatch.setattr(h.ledger, "reserve_all", late)
        (answer,) = await h.predict()
        assert answer["fallback_reason"] == "ledger" and not answer["expose"]
        await asyncio.to_thread(done.wait, 5)
        await h.until(lambda: _no_reservation(h))

    run(scenario, tmp_path, deadline_ms=600)


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_a_log_that_fails_is_no_exposure_and_no_reservation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    async def scenario(h: Harness) -> None:
        arm = h.router.live.experiment.arm_of("u1")[0]
        before = sample("mtorl_fallbacks_total", arm=arm, reason="log")
        with monkeypatch.context() as patch:
            patch.setattr(os, call, lambda file, *data: _full_disk(file, data))
            (answer,) = await h.predict()
            assert (answer["fallback_reason"], answer["expose"], answer["propensity"]) == ("log", False, 1.0)
            assert _no_reservation(h)
        assert sample("mtorl_fallbacks_total", arm=arm, reason="log") == before + 1
        (answer,) = await h.predict()  # the disk has room again
        assert answer["expose"] and h.records()[-1]["decision_id"] == answer["decision_id"]

    run(scenario, tmp_path)


def test_a_log_that_hangs_is_withdrawn_when_it_wakes_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(h: Harness) -> None:
        gate, sync = threading.Event(), os.fdatasync
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", lambda file: (gate.wait(10), sync(file))[1])
            (answer,) = await h.predict()
            assert (answer["fallback_reason"], answer["expose"]) == ("log", False)
            await h.until(lambda: _no_reservation(h))
            gate.set()
            await h.until(lambda: len(h.records()) == 2)
        first, second = h.records()
        assert first["decision_id"] == second["decision_id"] == answer["decision_id"]
        assert first["expose"] and not second["expose"] and not first["withdrawn"] and second["withdrawn"]
        assert second["fallback_reason"] == "log"

    run(scenario, tmp_path, deadline_ms=600)


def test_one_bad_item_never_fails_its_batch_mates(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        users = [f"u{i}" for i in range(12)]
        bad = {uniform("s", "decision", f"r{i}") for i in (3, 7)}
        h.arm.mode = lambda item: {"error": "bad"} if item["u"] in bad else decision()
        answers = await h.predict(*(instance(user, request_id=f"r{i}") for i, user in enumerate(users)))
        assert [i for i, answer in enumerate(answers) if answer["fallback_reason"]] == [3, 7]
        assert [answer["request_id"] for answer in answers] == [f"r{i}" for i in range(12)]

    run(scenario, tmp_path)


def test_a_connection_that_the_arm_closed_is_no_fault(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        h.arm.mode = "hang-up once"
        (answer,) = await h.predict()
        assert answer["fallback_reason"] is None and len(h.arm.asked) == 2

    run(scenario, tmp_path)


@pytest.mark.parametrize("stage", ["model", "ledger"])
def test_a_stage_that_comes_too_late_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    async def scenario(h: Harness) -> None:
        left = Deadline.left
        monkeypatch.setattr(Deadline, "left", lambda self, name: 0.0 if name == stage else left(self, name))
        (answer,) = await h.predict()
        assert answer["fallback_reason"] == "no_time" and _no_reservation(h)

    run(scenario, tmp_path)


def test_a_stage_gets_what_the_ones_before_it_left() -> None:
    deadline = Deadline(1.0)
    assert 0 < deadline.left("features") < deadline.left("model") < deadline.left("ledger") < deadline.left("log") <= 1
    spent = Deadline(1e-9)
    assert spent.left("ledger") < 0 < spent.left("log")


# ---- bad requests

GOOD_OUTCOME = {"event_id": "e", "decision_id": "d", "kind": "click", "value": 1, "event_time": "2026-01-01T12:00:00Z"}
NOT_A_REQUEST: list[tuple[Any, str]] = [
    ({}, "instances"),
    ([], "instances"),
    ("text", "instances"),
    ({"instances": None}, "instances"),
    ({"instances": {}}, "instances"),
    ({"instances": []}, "instances: expected at least 1 item"),
    ({"instances": [instance()] * 65}, "64"),
    ({"instances": [1]}, r"instances\[0\]"),
    ({"instances": [{}]}, "user_id, campaign_id, context"),
    (
        {"instances": [instance(), {k: v for k, v in instance().items() if k != "campaign_id"}]},
        r"\[1\]: missing campaign_id",
    ),
    ({"instances": [instance(colour="red")]}, "colour"),
    ({"instances": [instance(user_id=7)]}, "user_id: expected text"),
    ({"instances": [instance(user_id="")]}, "user_id"),
    ({"instances": [instance(user_id="x" * 257)]}, "257"),
    ({"instances": [instance(campaign_id=None)]}, "campaign_id"),
    ({"instances": [instance(request_id=["r"])]}, "request_id"),
    ({"instances": [instance(timestamp=1767268800)]}, "timestamp: expected text"),
    ({"instances": [instance(timestamp="yesterday")]}, "timestamp: expected an ISO 8601 time"),
    ({"instances": [instance(timestamp="2026-01-01T12:00:00")]}, "timestamp: the time has no zone"),
    ({"instances": [instance(timestamp="2999-01-01T12:00:00Z")]}, "timestamp: 2999.* is in the future; it is 2"),
    ({"instances": [instance(context=[])]}, "context: expected a mapping"),
    ({"instances": [instance(context={})]}, "context: missing hour, device"),
    ({"instances": [instance(context={**CONTEXT, "hour": None})]}, "context.hour: expected a number, got None"),
    (
        {"instances": [instance(context={**CONTEXT, "colour": 1, "mood": 2})]},
        "unknown colour, mood; known: hour, device",
    ),
    ({"instances": [instance(context={**CONTEXT, "hour": "14"})]}, "hour: expected a number"),
    ({"instances": [instance(context={**CONTEXT, "hour": True})]}, "hour: expected a number"),
    ({"instances": [instance(context={**CONTEXT, "hour": [14]})]}, "hour: expected a number"),
    ({"instances": [instance(context={**CONTEXT, "device": 3})]}, "device: expected text"),
]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Posts bodies to one router, which must still decide afterwards."""
    runner = asyncio.Runner()
    context = running(tmp_path_factory.mktemp("router"))
    harness = runner.run(context.__aenter__())
    yield lambda path, body, **options: runner.run(harness.post(path, body, **options))
    (answer,) = runner.run(harness.predict())
    assert answer["expose"] and len(harness.records()) == 1
    runner.run(context.__aexit__(None, None, None))
    runner.close()


@pytest.mark.parametrize(("body", "message"), NOT_A_REQUEST)
def test_a_bad_request_is_a_400_that_says_where(ask: Any, body: Any, message: str) -> None:
    import re

    response = ask("/v1/models/ads:predict", body)
    assert response.status_code == 400, response.text
    assert re.search(message, response.json()["error"]), response.text


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


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "text/plain", "application/x-www-form-urlencoded"]
)
def test_json_is_understood_whatever_it_is_called(tmp_path: Path, content_type: str) -> None:
    async def scenario(h: Harness) -> None:
        body = json.dumps({"instances": [instance()]}).encode()
        response = await h.post("/v1/models/ads:predict", None, content=body, headers={"content-type": content_type})
        assert response.status_code == 200 and response.json()["predictions"][0]["expose"]

    run(scenario, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "view"}, "kind"),
        ({"kind": ["click"]}, "kind"),
        ({"value": "1"}, "value"),
        ({"value": -1}, "value"),
        ({"value": 1e12}, "value"),
        ({"value": None}, "value"),
        ({"event_id": ""}, "event_id"),
        ({"decision_id": 4}, "decision_id"),
        ({"event_time": "yesterday"}, "event_time"),
        ({"event_time": "2026-01-01T12:00:00"}, "zone"),
        ({"event_time": "0001-01-01T00:00:00+23:00"}, "out of range"),
        ({"event_time": 1767268800}, "event_time"),
        ({"note": "x"}, "note"),
    ],
)
def test_a_bad_outcome_is_a_400_that_says_where(ask: Any, changes: dict[str, Any], message: str) -> None:
    response = ask("/v1/outcomes", {"outcomes": [{**GOOD_OUTCOME, **changes}]})
    assert response.status_code == 400 and message in response.json()["error"], response.text
    assert "outcomes[0]" in response.json()["error"]


def test_bad_outcome_lists(ask: Any) -> None:
    for body in ({}, [], {"outcomes": {}}, {"outcomes": []}, {"outcomes": [GOOD_OUTCOME] * 1001}, {"outcomes": [{}]}):
        assert ask("/v1/outcomes", body).status_code == 400


# ---- v2


def v2(rows: int = 1, **tensors: Any) -> dict[str, Any]:
    values = {"user_id": ["u1"] * rows, "campaign_id": ["c"] * rows, "context": [json.dumps(CONTEXT)] * rows, **tensors}
    inputs = [
        {"name": n, "datatype": "BYTES", "shape": [len(v)], "data": v} for n, v in values.items() if v is not None
    ]
    return {"inputs": inputs}


def test_v2_decides_like_v1(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        for body in (v2(3), {**v2(3), "id": "x1"}):
            response = await h.post("/v2/models/ads/infer", body)
            assert response.status_code == 200, response.text
            answer = response.json()
            outputs = {o["name"]: (o["datatype"], o["shape"], o["data"]) for o in answer["outputs"]}
            assert outputs["channel"] == ("BYTES", [3], ["video"] * 3)
            assert outputs["expose"] == ("BOOL", [3], [True] * 3)
            assert outputs["propensity"] == ("FP64", [3], [0.75] * 3)
            assert outputs["fallback_reason"] == ("BYTES", [3], [""] * 3)
            assert set(outputs) >= {"decision_id", "arm", "expected_reward", "expected_cost"}
            assert answer["id"] == body.get("id", outputs["decision_id"][2][0])
        h.arm.mode = 500
        answer = (await h.post("/v2/models/ads/infer", v2(1, request_id=["r9"]))).json()
        assert {o["name"]: o["data"] for o in answer["outputs"]}["fallback_reason"] == ["model_error"]
        assert h.records()[-1]["request_id"] == "r9"

    run(scenario, tmp_path)


def test_a_v2_request_may_have_a_time(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        response = await h.post("/v2/models/ads/infer", v2(1, timestamp=["2020-01-01T12:00:00+01:00"]))
        assert response.status_code == 200, response.text
        assert h.arm.asked[0][1]["window"]["prev_channel"] == [None]  # long before the user's first touchpoint
        assert (await h.post("/v2/models/ads/infer", v2(1, timestamp=["2020-01-01"]))).status_code == 400

    run(scenario, tmp_path)


@pytest.mark.parametrize(
    "body",
    [
        v2(1, user_id=None),
        v2(1, extra=["x"]),
        v2(2, user_id=["only one"]),
        v2(1, context=["{"]),
        v2(1, context=["[1]"]),
        v2(1, context=[json.dumps({"hour": 1})]),
        v2(1, user_id=[7]),
        v2(65),
        v2(0),
        {"inputs": []},
        {"inputs": [{"name": "user_id", "datatype": "INT64", "shape": [1], "data": [1]}]},
        {"inputs": [{**v2()["inputs"][0], "shape": [4]}, *v2()["inputs"][1:]]},
        {"inputs": [{"name": "user_id", "datatype": "BYTES", "shape": [1], "data": "u1"}]},
        {"inputs": [{"name": "user_id"}]},
        {"outputs": []},
    ],
)
def test_a_bad_v2_request_is_a_4xx(ask: Any, body: Any) -> None:
    response = ask("/v2/models/ads/infer", body)
    assert 400 <= response.status_code < 500, response.text


def test_a_broken_binary_request_is_a_4xx(ask: Any) -> None:
    for head in (
        b'{"inputs": [{"name": "user_id"}]}',
        b"{}",
        b'{"inputs": 3}',
        b'{"inputs": [{"name": "u", "shape": [9], "datatype": "BYTES", "parameters": {"binary_data_size": 4}}]}',
    ):
        for length in (str(len(head)), "x", "99999"):
            headers = {"content-type": "application/octet-stream", "inference-header-content-length": length}
            response = ask("/v2/models/ads/infer", None, content=head + b"\x09\x00\x00\x00", headers=headers)
            assert 400 <= response.status_code < 500, response.text


def test_nobody_unloads_the_model(ask: Any) -> None:
    assert ask("/v2/repository/models/ads/unload", {}).status_code == 404
    assert ask("/v2/repository/models/ads/load", {}).status_code == 404
    assert ask("/v1/models/other:predict", {"instances": [instance()]}).status_code == 404


# ---- experiment, metrics, settings


def test_the_experiment_is_hot_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        path = h.folder / "experiment.yaml"
        content = yaml.safe_load(path.read_text())

        def write(text: str) -> None:
            draft = path.with_suffix(".draft")
            draft.write_text(text)
            draft.replace(path)

        assert sample("mtorl_experiment_enabled") == 1 and sample("mtorl_experiment_generation") == 1
        failures = sample("mtorl_experiment_reload_failures_total")
        for text in (
            "stage: [",
            yaml.safe_dump({**content, "stage": "9%"}),
            yaml.safe_dump({**content, "default_channel": "tv"}),
        ):
            write(text)
            assert not h.router.live.refresh()
        assert sample("mtorl_experiment_reload_failures_total") == failures + 3
        assert h.router.live.experiment.enabled and h.router.live.generation == 1

        write(yaml.safe_dump({**content, "enabled": False}))  # the kill switch, found without a nudge
        await h.until(lambda: h.router.live.generation == 2)
        assert {p["arm"] for p in await h.predict(*(instance(f"u{i}") for i in range(20)))} == {"incumbent"}
        assert sample("mtorl_experiment_enabled") == 0
        assert {record["stage"] for record in h.records()} == {"off"}
        await h.until(lambda: h.balance("incumbent").limit == 100 and h.balance("challenger").limit == 0)

    run(scenario, tmp_path)


def test_metrics_are_shown(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        (answer,) = await h.predict()
        await h.outcome(answer["decision_id"], "cost", 0.02)
        await h.until(lambda: sample("mtorl_budget_spent", arm=answer["arm"]) == 0.02)
        assert sample("mtorl_budget_spend_ratio", arm=answer["arm"]) == 0.02 / 50
        text = (await h.client.get("/metrics")).text
        for name in (
            f'mtorl_decisions_total{{arm="{answer["arm"]}",expose="true"}}',
            f'mtorl_decision_latency_seconds_count{{arm="{answer["arm"]}"}}',
            *(
                f'mtorl_stage_latency_seconds_count{{arm="{answer["arm"]}",stage="{stage}"}}'
                for stage in ("features", "model", "ledger", "log")
            ),
            *(f'mtorl_budget_{what}{{arm="challenger"}}' for what in ("limit", "spent", "reserved", "spend_ratio")),
            "mtorl_budget_expired_total",
            'mtorl_outcomes_total{kind="cost",status="accepted"}',
            "mtorl_spool_records_total",
            "mtorl_experiment_enabled",
            "mtorl_experiment_generation",
        ):
            assert name in text, name

    run(scenario, tmp_path)


def test_the_router_starts_before_its_ledger_and_spends_once_it_is_there(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        assert (await h.predict())[0]["fallback_reason"] == "ledger"
        (tmp_path / "later").mkdir()
        await h.until(lambda: h.router.budgets.ready)
        assert (await h.predict())[0]["expose"]

    run(scenario, tmp_path, ledger="later/ledger.sqlite")


def test_money_of_which_nothing_is_heard_comes_back(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        before = sample("mtorl_budget_expired_total")
        (answer,) = await h.predict()
        assert answer["expose"]
        await h.until(lambda: sample("mtorl_budget_expired_total") == before + 1)
        assert h.balance(answer["arm"]).reserved == 0
        await h.outcome(answer["decision_id"], "cost", 0.02)
        assert h.balance(answer["arm"]).spent == 0.02

    run(scenario, tmp_path, reservation_ttl_hours=1e-5)


def test_a_ratio_is_that_of_the_fullest_account() -> None:
    metrics.show_budget(
        [
            Balance("ratio", "*", "*", 100.0, spent=10.0, reserved=0.0, excess=0.0),
            Balance("ratio", "*", "*", 10.0, spent=9.0, reserved=0.0, excess=0.0, period="day"),
            Balance("ratio", "c1", "*", 0.0, spent=0.0, reserved=0.0, excess=0.0),
            Balance("nothing", "*", "*", 0.0, spent=0.0, reserved=0.0, excess=0.0),
        ]
    )
    assert sample("mtorl_budget_spend_ratio", arm="ratio") == 0.9
    assert sample("mtorl_budget_spend_ratio", arm="nothing") == 0.0


def test_routers_share_a_ledger_on_redis(tmp_path: Path, lasting_redis: int) -> None:
    """A decision of one router, its cost told to another, and a limit that holds for both."""

    async def scenario(first: Harness) -> None:
        (tmp_path / "other").mkdir()
        async with running(tmp_path / "other", changes, ledger=where) as second:
            (answer,) = await first.predict()
            assert answer["expose"]
            (refused,) = await second.predict()
            assert not refused["expose"] and refused["budget_exhausted"]
            await second.outcome(answer["decision_id"], "cost", 0.02)
            for h in (first, second):
                assert (h.balance(answer["arm"]).spent, h.balance(answer["arm"]).reserved) == (0.02, 0.0)

    where = Place("redis", tmp_path, lasting_redis).where
    changes = {"budgets": [{"campaign": "*", "channel": "*", "amount": 0.12, "period": "day"}]}
    run(scenario, tmp_path, changes=changes, ledger=where)


def test_a_limit_that_the_ledger_cannot_hold_spends_nothing(tmp_path: Path, lasting_redis: int) -> None:
    async def scenario(h: Harness) -> None:
        assert (await h.predict())[0]["fallback_reason"] == "ledger"

    budgets = [{"campaign": "*", "channel": "*", "amount": 1e8}]
    run(scenario, tmp_path, changes={"budgets": budgets}, ledger=Place("redis", tmp_path, lasting_redis).where)


def test_the_router_starts_before_its_arms(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        assert (await h.predict())[0]["fallback_reason"] == "model_error"

    arms = [{"name": n, "weight": 0.5, "endpoint": "http://127.0.0.1:9"} for n in ("incumbent", "challenger")]
    run(scenario, tmp_path, changes={"arms": arms})


def test_a_fault_that_strikes_every_request_is_logged_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test.throttle")
    logger.addFilter(OncePerSecond())
    for i in range(50):
        logger.warning("default action, %s: %s", "features" if i % 2 else "ledger", i)
    assert [record.args for record in caplog.records] == [("ledger", 0), ("features", 1)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"port": "8080"}, "port"),
        ({"port": 70000}, "port"),
        ({"deadline_ms": 0}, "deadline_ms"),
        ({"cost_cap": {}}, "cost_cap"),
        ({"cost_cap": {"search": -1}}, "cost_cap"),
        ({"ledger": 3}, "ledger"),
        ({"ledger": ""}, "ledger"),
        ({"ledger": "http://redis"}, "ledger: expected a path, or a URL that starts with"),
        ({"ledger": "redis://:s3cret@host"}, "ledger: no password in the URL.* MTORL_LEDGER_PASSWORD"),
        ({"ledger": "redis://host:port"}, "ledger: not a URL"),
        ({"reservation_ttl_hours": 0}, "reservation_ttl_hours"),
        ({"model_name": ""}, "model_name"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        write_settings(tmp_path, "http://x", {}, **settings)


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    (tmp_path / "router.yaml").write_text("port: 1")
    with pytest.raises(SettingsError, match="experiment"):
        RouterSettings.load(tmp_path / "router.yaml")
    with pytest.raises(SettingsError, match=r"absent\.yaml"):
        RouterSettings.load(tmp_path / "absent.yaml")


def test_every_channel_needs_a_cap(tmp_path: Path) -> None:
    async def scenario(h: Harness) -> None:
        raise AssertionError

    with pytest.raises(SettingsError, match="video"):
        run(scenario, tmp_path, cost_cap={"search": 1.0})


# ---- the process


class Process:
    """`python -m serving.router` with a real Feast repository and arms that live in a thread of the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.arm = FakeArm()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.config = write_settings(
            folder, self._in_thread(self.arm.start()), {}, deadline_ms=5000, port=free_ports(1)[0]
        )

    def _in_thread(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def __enter__(self) -> Process:
        command = [sys.executable, "-m", "serving.router", "--run-config", str(self.folder / "router.yaml")]
        with (self.folder / "router.log").open("wb") as log:
            self.router = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.router.stdout is not None
        line = self.router.stdout.readline()
        assert line.startswith("router ready http://127.0.0.1:"), (self.folder / "router.log").read_text()
        self.url = line.split()[-1]
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.router.kill()
        self.router.communicate()
        self._in_thread(self.arm.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def predict(self, *instances: dict[str, Any]) -> list[dict[str, Any]]:
        response = httpx.post(f"{self.url}/v1/models/ads:predict", json={"instances": instances}, timeout=20)
        assert response.status_code == 200, response.text
        found: list[dict[str, Any]] = response.json()["predictions"]
        return found


@pytest.fixture(scope="module")
def feast_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import pandas as pd

    from features.offline.store import create, materialize

    folder = tmp_path_factory.mktemp("feast")
    row = {"user_id": "u1", "campaign_id": "c", "cost": 0.03, "conversion": 0, "revenue": 0.0, "propensity": 0.5}
    row |= {"device": "tv", "slot": "top", "age": "30-39"}
    start = pd.Timestamp("2026-01-01", tz="UTC")
    rows = [
        {**row, "timestamp": start + pd.Timedelta(hours=i), "channel": channel, "click": i % 2, "hour": float(i)}
        for i, channel in enumerate(("search", "video"))
    ]
    pd.DataFrame(rows)[list(SPEC.columns)].to_parquet(folder / "log.parquet")
    create(folder / "features", SPEC, folder / "log.parquet")
    materialize(folder / "features", SPEC)
    return folder / "features"


@pytest.mark.integration
def test_the_process_reads_feast_drains_on_sigterm_and_starts_again(feast_repo: Path, tmp_path: Path) -> None:
    (tmp_path / "features").symlink_to(feast_repo)
    with Process(tmp_path) as process:
        at = "2026-01-01T12:00:00Z"  # a caller may ask about another moment than now
        known, unknown = process.predict(instance("u1", request_id="r1", timestamp=at), instance("stranger"))
        assert known["expose"] and unknown["expose"]
        window = next(item["window"] for _, item in process.arm.asked if item["u"] == uniform("s", "decision", "r1"))
        assert window["prev_channel"] == [None, "search", "video"] and window["prev_click"] == [0.0, 0, 1]
        assert window["context"]["hour"] == [0.0, 1.0, 14.0] and window["static"] == {"age": "30-39"}
        assert "mtorl_decisions_total" in httpx.get(f"{process.url}/metrics").text
        assert httpx.get(f"{process.url}/v1/models/ads").json() == {"name": "ads", "ready": True}
        libraries = Path(f"/proc/{process.router.pid}/maps").read_text()
        assert "libtorch" not in libraries

        process.arm.mode = "slow"
        answers: list[dict[str, Any]] = []
        in_flight = [
            threading.Thread(target=lambda i=i: answers.extend(process.predict(instance(f"late{i}")))) for i in range(5)
        ]
        before = len(process.arm.asked)
        for thread in in_flight:
            thread.start()
        while len(process.arm.asked) < before + 5:
            time.sleep(0.01)
        process.router.send_signal(signal.SIGTERM)
        for thread in in_flight:
            thread.join()
        assert process.router.wait(20) == 0
        assert [answer["expose"] for answer in answers] == [True] * 5
        log = (tmp_path / "router.log").read_text()
        assert "Traceback" not in log and "ERROR" not in log, log

    spool = Spool(tmp_path / "spool")
    assert {a["decision_id"] for a in [known, unknown, *answers]} == {r["decision_id"] for r in spool.read("decision")}
    assert spool.torn == 0
    spool.close()
    with Process(tmp_path) as process:
        assert process.predict(instance("u1"))[0]["expose"]
    assert len(SqliteLedger(tmp_path / "ledger.sqlite").open_reservations()) == 8


@pytest.mark.integration
def test_a_process_that_was_killed_starts_again_and_owes_nothing(feast_repo: Path, tmp_path: Path) -> None:
    (tmp_path / "features").symlink_to(feast_repo)
    with Process(tmp_path) as process:
        threads = [threading.Thread(target=_until_it_dies, args=(process, n)) for n in range(4)]
        for thread in threads:
            thread.start()
        while len(process.arm.asked) < 50:
            time.sleep(0.01)
        process.router.kill()
        for thread in threads:
            thread.join()
    with Process(tmp_path) as process:
        process.predict(instance("u1"))
    ledger, spool = SqliteLedger(tmp_path / "ledger.sqlite"), Spool(tmp_path / "spool")
    logged = {record["reservation_id"] for record in spool.read("decision")}
    assert set(ledger.open_reservations()) == logged
    spool.close()


def _until_it_dies(process: Process, worker: int) -> None:
    with contextlib.suppress(httpx.HTTPError):
        for i in range(10_000):
            process.predict(instance(f"{worker}-{i}"))


@pytest.mark.integration
@pytest.mark.parametrize(("changes", "message"), [({"stage": "9%"}, "stage"), ({}, "feature_repo")])
def test_a_router_that_cannot_start_says_why(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_settings(tmp_path, "http://127.0.0.1:9", changes)
    command = [sys.executable, "-m", "serving.router", "--run-config", str(tmp_path / "router.yaml")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2 and message in ended.stderr and "Traceback" not in ended.stderr, ended.stderr
