"""Tests that a failing sink loses no record, and only refused records are set aside."""

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from serving.decision_log import Kind, Spool, http_sink, shipper
from serving.decision_log.http_sink import HttpSink
from serving.decision_log.segments import Batch
from serving.decision_log.shipper import Refused, SinkUnavailable
from tests.serving.shipping import (
    MemorySink,
    WebSink,
    distinct,
    ids,
    names,
    new_shipper,
    poison,
    put,
    ship_all,
    shipping,
)
from tests.waiting import until

KINDS: tuple[Kind, ...] = get_args(Kind)


def test_the_age_of_records_that_an_earlier_run_left(spool: Spool) -> None:
    assert new_shipper(spool, MemorySink()).oldest_pending_seconds == 0
    for kind in KINDS:
        put(spool, kind, "old", event_time=datetime.fromtimestamp(time.time() - 500, UTC).isoformat())
    assert 499 < new_shipper(spool, MemorySink()).oldest_pending_seconds < 600


def test_pauses_double_with_jitter_up_to_a_limit_or_are_as_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipper, "_FIRST_PAUSE", 0.5)
    monkeypatch.setattr(shipper, "_LONGEST_PAUSE", 30.0)
    for failures in (0, 1, 3, 10, 10**6):
        longest = min(30.0, 0.5 * 2.0 ** min(failures, 60))
        pauses = [shipper.pause_after(failures, 0.0) for _ in range(200)]
        assert longest / 2 <= min(pauses) < max(pauses) <= longest
    assert shipper.pause_after(0, 120.0) == 120.0


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (500, "server_error"),
        (429, "throttled"),
        (408, "timeout"),
        (404, "not_accepted"),  # a wrong URL sets nothing aside
        (302, "not_accepted"),
        ("garbage", "network"),
        ("hang", "timeout"),
    ],
)
async def test_sick_servers_lose_nothing(spool: Spool, monkeypatch: pytest.MonkeyPatch, mode: Any, reason: str) -> None:
    monkeypatch.setattr(http_sink, "_ANSWER_SECONDS", 0.5 if mode == "hang" else 60.0)
    put(spool, "decision", *names("d", 9))
    server = WebSink(mode)
    sink = HttpSink(await server.start(), "/mtorl/router/ads", largest=4)
    async with shipping(spool, sink) as running:
        await until(lambda: running.tally["failed", reason] >= 3)
        assert not server.got and running.pending > 0 and running.oldest_pending_seconds > 0
        server.mode = "ok"
        await until(lambda: running.pending == 0)
        assert running.oldest_pending_seconds == 0
    assert distinct(server.ids("decision")) == names("d", 9) and not poison(spool.folder, "decision")
    await server.stop()


@pytest.mark.parametrize(
    ("asked", "expected"), [("7", 7), ("-1", 0), ("", 0), ("soon", 0), ("nan", 0), ("99999", 300), ("Wed, 21 Oct", 0)]
)
async def test_the_pause_that_a_sink_may_request(spool: Spool, asked: str, expected: float) -> None:
    put(spool, "decision", "d0")
    server = WebSink(429, {"Retry-After": asked})
    sink = HttpSink(await server.start(), "/r")
    with pytest.raises(SinkUnavailable) as fault:
        await new_shipper(spool, sink).ship_once()
    assert fault.value.retry_after == expected
    await sink.close()
    await server.stop()


async def test_a_pause_that_a_sink_requests_is_kept(spool: Spool) -> None:
    put(spool, "decision", "d0")
    server = WebSink(429, {"Retry-After": "300"})
    async with shipping(spool, HttpSink(await server.start(), "/r"), drain=0.1) as running:
        await until(lambda: running.tally["failed", "throttled"] == 1)
        await asyncio.sleep(0.1)
        assert len(server.requests) == 1
    await server.stop()


async def test_a_bug_in_a_sink_does_not_end_the_task(spool: Spool) -> None:
    put(spool, "decision", *names("d", 3))
    sink, faults = MemorySink(), iter([RuntimeError("bug"), ZeroDivisionError()])

    def fault(_: Batch) -> None:
        for error in faults:
            raise error

    sink.fault = fault
    async with shipping(spool, sink) as running:
        await until(lambda: running.pending == 0)
        assert running.tally["failed", "internal"] == 2
    assert sink.got["decision"] == names("d", 3)


@pytest.mark.parametrize("bad", [{"d0"}, {"d31"}, {"d13"}, {"d4", "d5"}, {"d0", "d17", "d99"}, set(names("d", 100))])
async def test_exactly_the_refused_records_are_set_aside(spool: Spool, bad: set[str]) -> None:
    put(spool, "decision", *names("d", 100))
    size = spool.size
    server = WebSink(lambda found: 400 if bad & {event["id"] for event in found} else "ok")
    async with shipping(spool, HttpSink(await server.start(), "/r", largest=32)) as running:
        await until(lambda: running.pending == 0)
        tally = running.take_tally()
    assert tally["poison", "decision"] == len(bad) and tally["shipped", "decision"] == 100 - len(bad)
    assert server.ids("decision") == [name for name in names("d", 100) if name not in bad]
    await server.stop()
    aside = poison(spool.folder, "decision")
    assert [json.loads(entry["record"])["decision_id"] for entry in aside] == [n for n in names("d", 100) if n in bad]
    assert all(entry["reason"] == "400 no" for entry in aside)
    assert spool.size > size  # set-aside records count against the quota


def test_a_refusal_before_a_fault_is_counted_once(spool: Spool) -> None:
    put(spool, "decision", *names("d", 8))
    sink, calls = MemorySink(largest=8), 0

    def fault(batch: Batch) -> None:
        nonlocal calls
        calls += 1
        if "d1" in ids(batch):
            raise Refused("no")
        if calls == 6:
            raise SinkUnavailable("network", "down")

    sink.fault = fault
    ship_all(spool, sink)
    assert sink.got["decision"] == [f"d{i}" for i in range(8) if i != 1]
    assert len(poison(spool.folder, "decision")) == 1


@pytest.mark.parametrize("status", [400, 415])
async def test_a_sink_that_takes_no_batches_gets_records_one_by_one(spool: Spool, status: int) -> None:
    """A Knative broker refuses batches but accepts single events."""
    put(spool, "decision", *names("d", 40))
    server = WebSink(lambda found: "ok" if len(found) == 1 else status)
    async with shipping(spool, HttpSink(await server.start(), "/r", largest=32)) as running:
        await until(lambda: running.pending == 0)
    assert server.ids("decision") == names("d", 40)
    assert {kind for kind, number, _ in server.requests if number == 1} == {"application/cloudevents+json"}
    await server.stop()
    assert not poison(spool.folder, "decision")


async def test_a_line_that_is_no_record_is_set_aside(spool: Spool) -> None:
    put(spool, "outcome", "e0", "e1")
    spool.submit("outcome", {"event_id": "e2", "decision_id": "d", "event_time": 5}).result(60)
    path = spool.folder / "outcome-00000001.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"event_id":"e1"', b'"event_id" "e1"'))
    server = WebSink()
    async with shipping(spool, HttpSink(await server.start(), "/r")) as running:
        await until(lambda: running.pending == 0)
    assert server.ids("outcome") == ["e0"]
    await server.stop()
    first, second = poison(spool.folder, "outcome")
    assert '"event_id" "e1"' in first["record"] and json.loads(second["record"])["event_id"] == "e2"
