"""Tests that each outcome is logged, and settled in the ledger exactly once."""

import asyncio
import os
import sqlite3
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mtorl.log.decision_ids import decision_id, is_decision_id
from serving import crash_recovery
from serving.crash_recovery import reconcile
from serving.decision_log import Spool, segments
from serving.ledger.contract import RETENTION_SECONDS, Account, Wanted
from tests.lakes import id_of
from tests.serving.ledgers import KINDS, Place, reserve, settle
from tests.serving.router_fixtures import SHORT_DEADLINE, Harness, event, full_disk, instance, with_router
from tests.serving.shipping import RECORDS
from tests.waiting import until


@with_router()
async def test_a_cost_settles_a_cancel_releases_and_nothing_counts_twice(h: Harness) -> None:
    first, second = [(await h.predict())[0] for _ in range(2)]
    arm, ids = first["arm"], (first["decision_id"], second["decision_id"])
    # Two costs are added, but a repeated event counts once.
    costs = [(ids[0], "cost", 0.02, event) for event in ("c1", "c2", "c2")]
    for told in (*costs, (ids[0], "click", 1.0, "k")):
        assert await h.outcome(*told) == {"accepted": 1}
    assert await h.outcome(ids[1], "cancel", 0.0, "x") == {"accepted": 1}
    assert await h.outcome(id_of("of another router"), "cost", 9.0, "d") == {"accepted": 1}
    for found in (h.balance(arm), h.balance("*")):
        assert (found.spent, found.reserved, found.excess) == (0.04, 0.0, 0.0)


@with_router(deadline_ms=SHORT_DEADLINE)
async def test_an_outcome_is_kept_during_a_ledger_outage_and_settled_afterwards(h: Harness) -> None:
    (answer,) = await h.predict()
    blocker = sqlite3.connect(h.ledger.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    assert (await h.outcome(answer["decision_id"], "cost", 0.02))["accepted"] == 1
    blocker.execute("ROLLBACK")
    blocker.close()
    await until(lambda: h.balance(answer["arm"]).spent == 0.02)


def report(*decisions: str, kind: str = "click") -> dict[str, Any]:
    return {"outcomes": [event(name, kind, event_id=f"of-{name}") for name in decisions]}


def unknown(*names: object) -> list[str]:
    return [id_of(str(name)) for name in names]


@with_router()
async def test_a_large_report_yields_the_event_loop_between_pieces(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    turns, pieces = 0, []
    submit = h.spool.submit

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    def noted(kind: Any, *records: Any) -> Any:
        pieces.append((turns, len(records)))
        return submit(kind, *records)

    monkeypatch.setattr(h.spool, "submit", noted)
    beside = asyncio.create_task(others())
    names = [unknown(*(f"{i}-{j}" for j in range(1000))) for i in range(3)]
    answers = await asyncio.gather(*(h.post("/v1/outcomes", report(*some)) for some in names))
    beside.cancel()
    assert [answer.json() for answer in answers] == [{"accepted": 1000}] * 3
    seen = [turn for turn, _ in pieces]
    assert max(size for _, size in pieces) <= 50 and all(a < b for a, b in pairwise(seen))
    assert len(list(h.spool.read("outcome"))) == 3000


@with_router()
async def test_a_decision_does_not_wait_for_costs_that_are_settled(h: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    settle = h.ledger.settle_all

    def slow(costs: Any) -> Any:
        release.wait(60)
        return settle(costs)

    monkeypatch.setattr(h.ledger, "settle_all", slow)
    told = asyncio.create_task(h.post("/v1/outcomes", report(*unknown(*range(40)), kind="cost")))
    await until(lambda: len(list(h.spool.read("outcome"))) == 40)
    assert (await h.predict())[0]["expose"]
    release.set()
    assert (await told).json()["accepted"] == 40


@with_router()
async def test_a_report_that_failed_halfway_is_retried_and_counts_once(
    h: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    (answer,) = await h.predict()
    body = report(*unknown(*range(70)), answer["decision_id"], *unknown(*range(70, 199)), kind="cost")
    write, written = os.write, []

    def fills_up(file: int, data: Any) -> int:
        written.append(file)
        return write(file, data) if len(written) < 3 else full_disk(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fills_up)
        refused = await h.post("/v1/outcomes", body)
    assert refused.status_code == 503
    assert (await h.post("/v1/outcomes", body)).json() == {"accepted": 200}
    assert len({record["event_id"] for record in h.spool.read("outcome")}) == 200
    assert h.balance(answer["arm"]).spent == 0.01


@with_router()
async def test_a_decision_id_contains_the_identity_of_its_log(h: Harness) -> None:
    answers = [*await h.predict(instance(), instance("u2")), *await h.predict(instance())]
    names = {answer["decision_id"] for answer in answers}
    assert len(names) == 3 and all(name.endswith(h.spool.identity) and is_decision_id(name) for name in names)
    assert set(h.ledger.open_reservations()) <= names and h.ledger.open_reservations()


def decided(spool: Spool, name: str, **changes: Any) -> None:
    record = {**RECORDS["decision"], "decision_id": name, "reservation_id": name, **changes}
    spool.submit("decision", record).result()


def told(spool: Spool, name: str, **changes: Any) -> None:
    spool.submit(
        "outcome", {**RECORDS["outcome"], **event(name, value=0.04, event_id=f"of-{name}"), **changes}
    ).result()


def test_a_router_reconciles_only_its_own_decisions(place: Place, tmp_path: Path) -> None:
    ledger, spool = place.open(), Spool(tmp_path / "spool")
    ledger.define([Account("a", "*", "*", 1.0)])
    others = ("another's", "another's, with a cost")
    of = {name: decision_id("u", spool.identity) for name in ("lost", "waits", "withdrawn", "has-a-cost", "cancelled")}
    of |= {name: decision_id("u", "0" * 8) for name in others}
    for name, made in of.items():
        reserve(ledger, made, "a", "c", "video", 0.1)
        if name not in ("lost", *others):
            decided(spool, made)
    decided(spool, of["withdrawn"], withdrawn=True)
    for name, kind in (("has-a-cost", "cost"), ("another's, with a cost", "cost"), ("cancelled", "cancel")):
        told(spool, of[name], kind=kind)
    told(spool, of["waits"], kind="click")
    assert reconcile(ledger, spool) == 5
    assert sorted(ledger.open_reservations()) == sorted([of["another's"], of["waits"]])
    assert [(b.spent, b.reserved) for b in ledger.balances()] == [(0.08, 0.2)]
    assert reconcile(ledger, spool) == 0
    spool.close()


@pytest.mark.parametrize("removed", ["all", "oldest", "newest"])
def test_deleted_segments_release_no_money(tmp_path: Path, removed: str) -> None:
    place = Place("sqlite", tmp_path, 0)
    ledger, spool = place.open(), Spool(tmp_path / "spool", segment_bytes=1)
    ledger.define([Account("a", "*", "*", 1.0)])
    made = [decision_id("u", spool.identity) for _ in range(3)]
    for name in made:
        reserve(ledger, name, "a", "c", "video", 0.1)
        decided(spool, name)
    segments.note_positions(spool.folder, segments.UPLOADED, {"decision": spool.end("decision")})
    spool.close()
    for path in segments.segments(spool.folder, "decision")[
        {"all": slice(None), "oldest": slice(1), "newest": slice(2, 3)}[removed]
    ]:
        path.unlink()
    spool = Spool(tmp_path / "spool")
    assert reconcile(ledger, spool) == 0 and sorted(ledger.open_reservations()) == sorted(made)
    spool.close()


def test_a_clock_that_was_set_back_releases_no_money(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The router reads only the newest records, but must find a record whose time is ahead of the clock."""
    place = Place("sqlite", tmp_path, 0)
    ledger, spool = place.open(), Spool(tmp_path / "spool")
    ledger.define([Account("a", "*", "*", 1.0)])
    ahead, lost = (decision_id("u", spool.identity, time.time() + seconds) for seconds in (3600, 120))
    for name in (ahead, lost):
        reserve(ledger, name, "a", "c", "video", 0.1)
    decided(spool, ahead)
    (first,) = segments.segments(spool.folder, "decision")
    os.utime(first, (time.time() + 3600,) * 2)
    for _ in range(2):
        decided(spool, decision_id("u", spool.identity))
    assert len(segments.segments(spool.folder, "decision")) == 2 and first.stat().st_mtime > time.time() + 3000
    monkeypatch.setattr(crash_recovery, "_NEWEST", 2)
    assert reconcile(ledger, spool) == 1 and ledger.open_reservations() == [ahead]
    spool.close()


def test_a_start_settles_costs_in_batches(lasting_redis: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settled one by one, fifty thousand costs delayed a start by ten seconds."""
    place = Place("redis", tmp_path, lasting_redis)
    ledger, spool = place.open(), Spool(tmp_path / "spool")
    ledger.define([Account("a", "*", "*", 100.0)])
    made = [decision_id("u", spool.identity) for _ in range(1_200)]
    ledger.reserve_all([Wanted(name, "a", "c", "video", 0.05) for name in made])
    spool.submit("decision", *({**RECORDS["decision"], "decision_id": name} for name in made)).result()
    records = [{**RECORDS["outcome"], "event_id": f"of-{name}", "decision_id": name, "value": 0.04} for name in made]
    kinds = ["cancel" if i in (600, 601) else "cost" for i in range(1_200)]
    spool.submit("outcome", *({**one, "kind": kind} for one, kind in zip(records, kinds, strict=True))).result()
    # A cost after a cancellation means that the ad was shown.
    told(spool, made[600])
    calls: list[int] = []
    settle = ledger.settle_all
    monkeypatch.setattr(ledger, "settle_all", lambda costs: calls.append(len(costs)) or settle(costs))
    assert reconcile(ledger, spool) == 1_200
    assert sum(calls) == 1_199 and len(calls) == 12
    assert [(b.spent, b.reserved, b.excess) for b in ledger.balances()] == [(47.96, 0.0, 0.0)]
    spool.close()


_SOME = st.integers(0, 2)
_STEPS = st.lists(
    st.tuples(st.sampled_from(["expose", "expose", "cost", "missed", "missed", "expire", "forget", "start"]), _SOME),
    max_size=25,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(steps=_STEPS)
@example(steps=[("expose", 0), ("expire", 0), ("missed", 0), ("start", 0), ("forget", 0)])
@example(steps=[("expose", 0), ("cost", 0), ("missed", 0), ("start", 0)])
def test_each_cost_is_charged_once_over_any_number_of_restarts(
    kind: str, tmp_path_factory: pytest.TempPathFactory, lasting_redis: int, steps: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("starts")
    place = Place(kind, folder, lasting_redis)
    ledger, spool = place.open(), Spool(folder / "spool")
    ledger.define([Account("a", "*", "*", 100.0)])
    exposed: set[str] = set()
    forgotten: set[str] = set()
    # The number of each decision's costs that did not reach the ledger.
    waiting: dict[str, int] = {}
    charged = events = 0
    for step, i in [*steps, ("start", 0), ("start", 0)]:
        name = id_of(f"d{i}")
        if step == "expose" and name not in exposed:
            reserve(ledger, name, "a", "c", "video", 1.0)
            decided(spool, name)
            exposed.add(name)
        elif step in ("cost", "missed") and name in exposed:
            events += 1
            event = "*" if events == 1 else f"e{events}"
            told(spool, name, event_id=event, value=0.01)
            if step == "missed":
                waiting[name] = waiting.get(name, 0) + 1
            elif name not in forgotten:
                settle(ledger, name, 0.01, event)
                charged += 1
        elif step == "expire":
            ledger.expire(0)
        elif step == "forget":  # reservations that are not open
            place.clock.now += RETENTION_SECONDS + 1
            still_open = set(ledger.open_reservations())
            ledger.expire(1e9)
            with place.client() as client:
                for gone in exposed - still_open:
                    client.delete(f"{{mtorl-ledger:{place.name}}}:r:{gone}")
            forgotten |= exposed - still_open
        elif step == "start":
            reconcile(ledger, spool)
            charged += sum(count for name, count in waiting.items() if name not in forgotten)
            waiting.clear()
        assert ledger.balances()[0].spent == pytest.approx(0.01 * charged)
    spool.close()
    ledger.close()
