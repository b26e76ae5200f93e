"""Shipping: every acknowledged record reaches the sink at least once and in order, whatever sinks and crashes do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.decision_log import Kind, Spool, events, position, shipper
from serving.decision_log.http_sink import HttpSink, _retry_after
from serving.decision_log.position import OLDEST, Position
from serving.decision_log.sink import Refused, SinkUnavailable
from serving.decision_log.tail import Batch
from tests.serving.shipping import (
    RECORDS,
    MemorySink,
    WebSink,
    ids,
    names,
    parse,
    poison,
    put,
    shipping,
    until,
)
from tests.serving.shipping import shipper as ship

ROOT = Path(__file__).parents[3]
KINDS: tuple[Kind, ...] = ("decision", "outcome")


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", segment_bytes=20_000)
    yield spool
    spool.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipper, "_POLL_SECONDS", 0.005)
    monkeypatch.setattr(shipper, "_NOTE_SECONDS", 0.0)
    monkeypatch.setattr(shipper, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(shipper, "_LONGEST_PAUSE", 0.02)


async def ship_all(spool: Spool, sink: Any) -> None:
    """One run of a shipper to the end."""
    async with shipping(spool, sink) as running:
        await until(lambda: running.pending == 0)


def distinct(found: list[str]) -> list[str]:
    return list(dict.fromkeys(found))


# ---- order, position


def test_everything_is_shipped_once_and_in_order_across_segments_and_restarts(spool: Spool) -> None:
    put(spool, "decision", *names("before", 30))
    sink = MemorySink()

    async def scenario() -> None:
        async with shipping(spool, sink) as running:
            put(spool, "outcome", *names("e", 20))
            put(spool, "decision", *names("after", 50))
            await until(lambda: running.pending == 0)
            assert running.take_tally() == {("shipped", "decision"): 80, ("shipped", "outcome"): 20}
        put(spool, "decision", "last")
        async with shipping(spool, sink) as running:
            assert running.pending == 1
            await until(lambda: running.pending == 0)

    asyncio.run(scenario())
    assert len(list(spool.folder.glob("decision-*.jsonl"))) > 2
    assert sink.got == {
        "decision": [*names("before", 30), *names("after", 50), "last"],
        "outcome": names("e", 20),
    }
    assert {len(set(batch.lines)) == len(batch) <= sink.largest for batch in sink.batches} == {True}


def test_what_is_not_durable_is_not_shipped(spool: Spool) -> None:
    put(spool, "decision", *names("d", 3))
    end = spool.end("decision")
    with (spool.folder / "decision-00000001.jsonl").open("ab") as file:
        file.write((json.dumps({**RECORDS["decision"], "decision_id": "not synced"}) + "\n").encode())
    sink = MemorySink()
    asyncio.run(ship_all(spool, sink))
    assert sink.got["decision"] == names("d", 3) and position.load(spool.folder)["decision"] == end


def test_an_interrupted_line_of_a_closed_segment_is_stepped_over(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=2500)
    put(spool, "decision", "d0", "d1", "d2", "d3")
    put(spool, "decision", "d4")
    with (tmp_path / "decision-00000001.jsonl").open("ab") as file:
        file.write(b'{"what a failed')
    put(spool, "decision", "d5")
    sink = MemorySink()
    asyncio.run(ship_all(spool, sink))
    assert sink.got["decision"] == names("d", 6)
    spool.close()


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b'{"decision": 7}',
        b'{"decision": {"segment": "a", "offset": 0, "check": 0}}',
        b'{"decision": {"segment": 1, "offset": 900, "check": 1}, "outcome": {"segment": 9, "offset": 0, "check": 0}}',
        b'{"decision": {"segment": 1, "offset": -5, "check": 0}}',
        b'{"decision": {"segment": 1, "offset": 99999999, "check": null}}',
        b'{"decision": {"segment": 77, "offset": 10, "check": null}}',
    ],
)
def test_a_damaged_position_starts_again_from_the_oldest(spool: Spool, damage: bytes) -> None:
    put(spool, "decision", *names("d", 5))
    put(spool, "outcome", *names("e", 5))
    asyncio.run(ship_all(spool, MemorySink()))
    (spool.folder / position.FILE).write_bytes(damage)
    assert position.load(spool.folder) == {"decision": OLDEST, "outcome": OLDEST}
    sink = MemorySink()
    asyncio.run(ship_all(spool, sink))
    assert sink.got == {"decision": names("d", 5), "outcome": names("e", 5)}


def test_a_position_is_not_believed_when_the_segment_is_another(spool: Spool) -> None:
    put(spool, "decision", *names("d", 3))
    asyncio.run(ship_all(spool, MemorySink()))
    assert position.load(spool.folder)["decision"] != OLDEST
    path = spool.folder / "decision-00000001.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"d2"', b'"x2"'))
    assert position.load(spool.folder)["decision"] == OLDEST


def test_a_position_that_cannot_be_noted_stops_nothing(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    put(spool, "decision", *names("d", 5))
    sink, save, full = MemorySink(largest=2), position.save, True

    def saving(*args: Any) -> None:
        if full:
            raise OSError(28, "No space left on device")
        save(*args)

    monkeypatch.setattr(position, "save", saving)

    async def scenario() -> None:
        nonlocal full
        async with shipping(spool, sink) as running:
            await until(lambda: running._tally["failed", "disk"] >= 2)
            full = False
            await until(lambda: running.pending == 0 and running._noted == running._at)

    asyncio.run(scenario())
    assert sink.got["decision"] == names("d", 5)
    assert position.load(spool.folder)["decision"] == spool.end("decision")


# ---- a sink in trouble


def test_a_sink_that_was_down_for_long_gets_everything_in_order(spool: Spool) -> None:
    sink, down, attempts = MemorySink(), True, 0

    def fault(_: Batch) -> None:
        nonlocal attempts
        attempts += 1
        if down:
            raise SinkUnavailable("network", "down")

    sink.fault = fault

    async def scenario() -> None:
        nonlocal down
        async with shipping(spool, sink) as running:
            for turn in range(20):
                put(spool, "decision", *(f"{turn}-{i}" for i in range(5)))
                put(spool, "outcome", f"e{turn}")
                await asyncio.sleep(0.01)
            assert running.pending == 120 and running.oldest_pending_seconds > 0 and not sink.batches
            assert running.take_tally()["failed", "network"] == attempts < 60
            down = False
            await until(lambda: running.pending == 0)
            assert running.oldest_pending_seconds == 0

    asyncio.run(scenario())
    assert sink.got["decision"] == [f"{turn}-{i}" for turn in range(20) for i in range(5)]
    assert sink.got["outcome"] == names("e", 20)


def test_the_age_of_what_an_earlier_run_left(spool: Spool) -> None:
    assert ship(spool, MemorySink()).oldest_pending_seconds == 0
    for kind in KINDS:
        put(spool, kind, "old", event_time=datetime.fromtimestamp(time.time() - 500, UTC).isoformat())
    assert 499 < ship(spool, MemorySink()).oldest_pending_seconds < 600


def test_pauses_double_at_random_up_to_a_limit_or_are_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipper, "_FIRST_PAUSE", 0.5)
    monkeypatch.setattr(shipper, "_LONGEST_PAUSE", 30.0)
    for failures in (0, 1, 3, 10, 10**6):
        longest = min(30.0, 0.5 * 2.0 ** min(failures, 60))
        found = [shipper.pause_seconds(failures, 0.0) for _ in range(200)]
        assert longest / 2 <= min(found) < max(found) <= longest
    assert shipper.pause_seconds(0, 120.0) == 120.0


def test_retry_after() -> None:
    assert [_retry_after(text) for text in ("7", "-1", "", "soon", "nan", "inf", "1e9")] == [7, 0, 0, 0, 0, 0, 300]
    assert _retry_after("Wed, 21 Oct 2099 07:28:00 GMT") == 300
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (500, "server_error"),
        (503, "server_error"),
        (429, "throttled"),
        (408, "timeout"),
        (404, "not_accepted"),  # a wrong URL sets nothing aside
        (401, "not_accepted"),
        (302, "not_accepted"),
        ("garbage", "network"),
        ("hang", "timeout"),
    ],
)
def test_a_server_in_trouble_costs_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, mode: Any, reason: str
) -> None:
    monkeypatch.setattr("serving.decision_log.http_sink._TIMEOUT_SECONDS", 0.1)
    put(spool, "decision", *names("d", 9))

    async def scenario() -> None:
        server = WebSink()
        server.mode = mode
        sink = HttpSink(await server.start(), "/mtorl/router/ads", largest=4)
        async with shipping(spool, sink) as running:
            await until(lambda: running._tally["failed", reason] >= 3)
            assert not server.got and running.pending == 9
            server.mode = "ok"
            await until(lambda: running.pending == 0)
        assert server.ids("decision") == names("d", 9) and not poison(spool.folder, "decision")
        await server.stop()

    asyncio.run(scenario())


def test_a_sink_that_asks_for_time_gets_it(spool: Spool) -> None:
    put(spool, "decision", "d0")

    async def scenario() -> None:
        server = WebSink()
        server.mode, server.headers = 429, {"Retry-After": "1"}
        async with shipping(spool, HttpSink(await server.start(), "/r"), drain=0.1) as running:
            await until(lambda: running._tally["failed", "throttled"] == 1)
            await asyncio.sleep(0.3)
            assert len(server.requests) == 1
        await server.stop()

    asyncio.run(scenario())


def test_nobody_listens(spool: Spool) -> None:
    put(spool, "decision", "d0")

    async def scenario() -> None:
        async with shipping(spool, HttpSink("http://127.0.0.1:9/", "/r")) as running:
            await until(lambda: running._tally["failed", "network"] >= 2)

    asyncio.run(scenario())
    assert position.load(spool.folder)["decision"] == OLDEST


def test_a_bug_in_a_sink_does_not_end_the_task(spool: Spool) -> None:
    put(spool, "decision", *names("d", 3))
    sink, faults = MemorySink(), iter([RuntimeError("bug"), ZeroDivisionError()])

    def fault(_: Batch) -> None:
        for error in faults:
            raise error

    sink.fault = fault

    async def scenario() -> None:
        async with shipping(spool, sink) as running:
            await until(lambda: running.pending == 0)
            assert running._tally["failed", "internal"] == 2

    asyncio.run(scenario())
    assert sink.got["decision"] == names("d", 3)


# ---- poison


@pytest.mark.parametrize("bad", [{"d0"}, {"d31"}, {"d13"}, {"d4", "d5"}, {"d0", "d17", "d99"}, set(names("d", 100))])
def test_exactly_what_is_refused_is_set_aside(spool: Spool, bad: set[str]) -> None:
    put(spool, "decision", *names("d", 100))

    async def scenario() -> None:
        server = WebSink()
        server.mode = lambda found: 400 if bad & {event["id"] for event in found} else "ok"
        async with shipping(spool, HttpSink(await server.start(), "/r", largest=32)) as running:
            await until(lambda: running.pending == 0)
            tally = running.take_tally()
        assert tally["poison", "decision"] == len(bad) and tally["shipped", "decision"] == 100 - len(bad)
        assert server.ids("decision") == [name for name in names("d", 100) if name not in bad]
        await server.stop()

    size = spool.size
    asyncio.run(scenario())
    aside = poison(spool.folder, "decision")
    assert [json.loads(entry["record"])["decision_id"] for entry in aside] == [n for n in names("d", 100) if n in bad]
    assert all(entry["reason"] == "400 no" for entry in aside)
    assert spool.size > size  # it counts against the quota


def test_a_refusal_before_a_fault_is_counted_once(spool: Spool) -> None:
    """The sink goes down in the middle of the search for the poison: what was found is not searched for again."""
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
    asyncio.run(ship_all(spool, sink))
    assert sink.got["decision"] == [f"d{i}" for i in range(8) if i != 1]
    assert len(poison(spool.folder, "decision")) == 1


@pytest.mark.parametrize("status", [400, 415])
def test_a_sink_that_takes_no_batches_gets_records_one_by_one(spool: Spool, status: int) -> None:
    """As a broker of Knative answers: that is no poison."""
    put(spool, "decision", *names("d", 40))

    async def scenario() -> None:
        server = WebSink()
        server.mode = lambda found: "ok" if len(found) == 1 else status
        async with shipping(spool, HttpSink(await server.start(), "/r", largest=32)) as running:
            await until(lambda: running.pending == 0)
        assert server.ids("decision") == names("d", 40)
        assert sum(number > 1 for _, number, _ in server.requests) < 20
        assert {kind for kind, number, _ in server.requests if number == 1} == {"application/json"}
        await server.stop()

    asyncio.run(scenario())
    assert not poison(spool.folder, "decision")


def test_a_line_that_is_no_record_is_set_aside(spool: Spool) -> None:
    put(spool, "outcome", "e0", "e1")
    spool.submit("outcome", {"event_id": "e2", "decision_id": "d", "event_time": 5}).result(10)
    path = spool.folder / "outcome-00000001.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"event_id":"e1"', b'"event_id" "e1"'))

    async def scenario() -> None:
        server = WebSink()
        async with shipping(spool, HttpSink(await server.start(), "/r")) as running:
            await until(lambda: running.pending == 0)
        assert server.ids("outcome") == ["e0"]
        await server.stop()

    asyncio.run(scenario())
    first, second = poison(spool.folder, "outcome")
    assert '"event_id" "e1"' in first["record"] and json.loads(second["record"])["event_id"] == "e2"


# ---- CloudEvents


@pytest.mark.parametrize("number", [1, 3])
def test_events_are_cloudevents(number: int) -> None:
    lines = tuple(
        json.dumps({**RECORDS["outcome"], "event_id": f'e "{i}" 100%\nå€'}).encode() + b"\n" for i in range(number)
    )
    headers, body = events.binary("outcome", lines[0], "/s") if number == 1 else events.batch("outcome", lines, "/s")
    for i, event in enumerate(parse(headers, body)):
        assert event["specversion"] == "1.0" and event["type"] == "mtorl.outcome.v1" and event["source"] == "/s"
        assert event["time"] == RECORDS["outcome"]["event_time"]
        assert event["partitionkey"] == RECORDS["outcome"]["decision_id"]
        data = event["data"] if isinstance(event["data"], dict) else json.loads(event["data"])
        assert data == json.loads(lines[i])
        if number > 1:
            assert event["id"] == f'e "{i}" 100%\nå€'
    if number == 1:
        assert headers["ce-id"] == "e%20%220%22%20100%25%0A%C3%A5%E2%82%AC"


def test_a_withdrawal_has_an_id_of_its_own() -> None:
    def event_id(**changes: Any) -> str:
        line = json.dumps({**RECORDS["decision"], "decision_id": "d", **changes}).encode()
        return events.attributes("decision", line, "/s")["id"]

    assert event_id() == "d" and event_id(fallback_reason="ledger") == "d"
    assert event_id(expose=False, fallback_reason="log", withdrawn=True) == "d.withdrawn"


# ---- the end of the process


def test_what_is_there_is_shipped_at_the_end_within_a_time(spool: Spool) -> None:
    sink = MemorySink(linger=60.0)

    async def scenario(drain: float) -> float:
        async with shipping(spool, sink, drain=drain) as running:
            await until(lambda: running._level["decision"] > 0)
            put(spool, "decision", *names("d", 5))
            await asyncio.sleep(0.05)
            assert running.pending == 5 and not sink.batches  # they gather
            start = time.monotonic()
        return time.monotonic() - start

    asyncio.run(scenario(5.0))
    assert sink.got["decision"] == names("d", 5)

    async def hang(_: Batch) -> None:
        await asyncio.sleep(60)

    sink.deliver = hang  # type: ignore[method-assign]
    sink.batches.clear()
    spool.close()
    again = Spool(spool.folder)
    put(again, "decision", "left")

    async def stuck() -> float:
        async with shipping(again, sink, drain=0.2):
            start = time.monotonic()
        return time.monotonic() - start

    assert asyncio.run(stuck()) < 2.0
    assert ship(again, MemorySink()).pending == 1
    again.close()


_PROCESS = """
import asyncio, json, sys
from serving.decision_log import Spool
from serving.decision_log import shipper as module
from serving.decision_log.http_sink import HttpSink
from serving.decision_log.shipper import Shipper
folder, url, golden, turn = sys.argv[1:]
module._POLL_SECONDS = 0.001

async def main():
    spool = Spool(folder, segment_bytes=50_000)
    Shipper(spool, HttpSink(url, "/r", largest=16), 168.0, lambda: None).start()
    decision, outcome = json.loads(golden)
    for i in range(10**6):
        await spool.append("decision", {**decision, "decision_id": f"d{turn}-{i}"})
        await spool.append("outcome", {**outcome, "event_id": f"e{turn}-{i}"})
        print(i, flush=True)
asyncio.run(main())
"""


@pytest.mark.integration
def test_a_shipper_killed_again_and_again_loses_nothing(tmp_path: Path) -> None:
    golden = json.dumps([RECORDS["decision"], RECORDS["outcome"]])
    written: dict[Kind, list[str]] = {"decision": [], "outcome": []}

    async def scenario() -> None:
        server = WebSink()
        url = await server.start()
        broken = iter(range(10**9))
        server.mode = lambda _: 500 if next(broken) % 7 == 3 else "ok"  # a fault now and then
        for turn in range(4):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _PROCESS, str(tmp_path / "spool"), url, golden, str(turn)),
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            assert process.stdout is not None
            await process.stdout.readline()
            await asyncio.sleep(0.3 + 0.17 * turn)
            os.kill(process.pid, signal.SIGKILL)
            acknowledged = int((await process.communicate())[0].split(b"\n")[-2])
            written["decision"] += [f"d{turn}-{i}" for i in range(acknowledged + 1)]
            written["outcome"] += [f"e{turn}-{i}" for i in range(acknowledged + 1)]
        spool = Spool(tmp_path / "spool")
        async with shipping(spool, HttpSink(url, "/r")) as running:
            await until(lambda: running.pending == 0, 60)
        for kind in KINDS:
            got, logged = distinct(server.ids(kind)), [r[_id(kind)] for r in spool.read(kind)]
            assert got == logged and set(written[kind]) <= set(got)
        assert len(server.got) < 3 * sum(len(ids) for ids in written.values())
        spool.close()
        await server.stop()

    asyncio.run(scenario())


def _id(kind: Kind) -> str:
    return "decision_id" if kind == "decision" else "event_id"


# ---- any order of events


class _Crash(BaseException):
    """The process ends here."""


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from(KINDS), st.integers(1, 6)),
        st.tuples(st.just("ship"), st.integers(0, 5), st.sampled_from(["ok", "down", "crash before", "crash after"])),
        st.tuples(st.just("restart")),
        st.tuples(st.just("damage"), st.sampled_from([b"", b"{}", b'{"decision": {"segment": 1, "offset": 7}}'])),
        st.tuples(st.just("prune")),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS)
def test_any_order_of_events_delivers_all_at_least_once_and_in_order(
    steps: list[tuple[Any, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Crashes strike before and after a delivery; positions are damaged; what is shipped is deleted at once."""
    folder = tmp_path_factory.mktemp("spool")
    written: dict[Kind, list[str]] = {"decision": [], "outcome": []}
    sink = MemorySink(largest=3)
    spool = Spool(folder, segment_bytes=3000)

    def crash_at(deliveries: int, what: str) -> None:
        left = deliveries

        def fault(batch: Batch) -> None:
            nonlocal left
            left -= 1
            if left < 0 and what != "ok":
                if what == "down":
                    raise SinkUnavailable("network", "down")
                if what == "crash after":
                    sink.got[batch.kind] += ids(batch)
                raise _Crash

        sink.fault = fault

    async def some_rounds() -> None:
        running = ship(spool, sink)
        try:
            while await running._round():
                pass
        except (SinkUnavailable, _Crash):
            pass
        running._thread.shutdown()

    def restart() -> None:
        nonlocal spool
        spool.close()
        spool = Spool(folder, segment_bytes=3000)

    for step in steps:
        match step:
            case ("append", kind, number):
                fresh = [f"{kind}{len(written[kind]) + i}" for i in range(number)]
                put(spool, kind, *fresh)
                written[kind] += fresh
            case ("ship", deliveries, what):
                crash_at(deliveries, what)
                asyncio.run(some_rounds())
                if "crash" in what:
                    restart()
            case ("restart",):
                restart()
            case ("damage", content):
                (folder / position.FILE).write_bytes(content)
            case ("prune",):
                spool.prune(position.load(folder), time.time() + 60, list)
    crash_at(0, "ok")
    asyncio.run(some_rounds())
    spool.close()
    for kind in KINDS:
        assert distinct(sink.got[kind]) == written[kind]


def test_positions_are_ordered() -> None:
    assert OLDEST < Position(1, 0) < Position(1, 5) < Position(2, 0)
