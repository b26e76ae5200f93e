"""Tests that every acknowledged record reaches the sink at least once and in order."""

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.decision_log import Kind, Spool, segments
from serving.decision_log.segments import OLDEST, Batch
from serving.decision_log.shipper import SinkUnavailable
from tests.serving.shipping import (
    SHIPPED,
    MemorySink,
    distinct,
    ids,
    names,
    new_shipper,
    put,
    record,
    ship_all,
    shipping,
)
from tests.waiting import until

KINDS: tuple[Kind, ...] = get_args(Kind)


async def test_everything_is_shipped_once_and_in_order_across_segments_and_restarts(spool: Spool) -> None:
    put(spool, "decision", *names("before", 30))
    sink = MemorySink()
    async with shipping(spool, sink) as running:
        put(spool, "outcome", *names("e", 20))
        put(spool, "shadow", *names("s", 10))
        put(spool, "decision", *names("after", 50))
        await until(lambda: running.pending == 0)
        tally = {("shipped", "decision"): 80, ("shipped", "outcome"): 20, ("shipped", "shadow"): 10}
        assert running.take_tally() == tally
    put(spool, "decision", "last")
    async with shipping(spool, sink) as running:
        assert running.pending > 0
        await until(lambda: running.pending == 0)
    assert len(list(spool.folder.glob("decision-*.jsonl"))) > 2
    assert sink.got == {
        "decision": [*names("before", 30), *names("after", 50), "last"],
        "outcome": names("e", 20),
        "shadow": names("s", 10),
        "window": [],
    }
    assert {len(set(batch.lines)) == len(batch) <= sink.largest for batch in sink.batches} == {True}


def test_only_durable_records_are_shipped(spool: Spool) -> None:
    put(spool, "decision", *names("d", 3))
    end = spool.end("decision")
    with (spool.folder / "decision-00000001.jsonl").open("ab") as file:
        file.write((json.dumps(record("decision", "not synced")) + "\n").encode())
    sink = MemorySink()
    ship_all(spool, sink)
    assert sink.got["decision"] == names("d", 3) and segments.positions(spool.folder, SHIPPED)["decision"] == end


def test_an_incomplete_line_of_a_closed_segment_is_skipped(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=2500)
    put(spool, "decision", "d0", "d1", "d2", "d3")
    put(spool, "decision", "d4")
    with (tmp_path / "decision-00000001.jsonl").open("ab") as file:
        file.write(b'{"what a failed')
    put(spool, "decision", "d5")
    sink = MemorySink()
    ship_all(spool, sink)
    assert sink.got["decision"] == names("d", 6)
    spool.close()


def test_a_position_inside_a_line_or_a_damaged_file_restarts_from_the_oldest_record(spool: Spool) -> None:
    put(spool, "decision", *names("d", 5))
    put(spool, "outcome", *names("e", 5))
    ship_all(spool, MemorySink())
    at = segments.positions(spool.folder, SHIPPED)["decision"]
    assert at == spool.end("decision")
    for offset, counts in ((at.offset, True), (at.offset - 1, False), (at.offset + 1, False), (0, True)):
        segments.note_positions(spool.folder, SHIPPED, {"decision": at._replace(offset=offset)})
        assert (segments.positions(spool.folder, SHIPPED)["decision"] != OLDEST) == counts
    wrong: list[list[Any]] = [["a", 0], [1], [1, -5], [1, 99999999], [77, 10]]
    for damage in ("", "[]", *(json.dumps({"decision": at}) for at in wrong)):
        (spool.folder / SHIPPED).write_text(damage)
        assert segments.positions(spool.folder, SHIPPED) == dict.fromkeys(KINDS, OLDEST)
    sink = MemorySink()
    ship_all(spool, sink)
    assert sink.got == {"decision": names("d", 5), "outcome": names("e", 5), "shadow": [], "window": []}


async def test_records_gather_after_each_delivery(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each upload creates a file, so the shipper must wait until records have gathered."""
    clock = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    sink = MemorySink(largest=1000, linger=60.0)
    shipper = new_shipper(spool, sink)
    for second in range(0, 300, 5):
        clock[0] += 5
        put(spool, "decision", *(f"{second}-{i}" for i in range(3)))
        await shipper.ship_once()
    assert 4 <= len(sink.batches) <= 6
    await shipper.close(60.0)
    assert len(sink.got["decision"]) == 180


async def test_pending_records_are_shipped_at_the_end_within_a_time_limit(spool: Spool) -> None:
    sink = MemorySink(linger=60.0)
    ending = new_shipper(spool, sink)
    assert await ending.ship_once() == 0
    put(spool, "decision", *names("d", 5))
    assert await ending.ship_once() == 0 and ending.pending > 0 and not sink.batches  # the records gather first
    await ending.close(60.0)
    assert sink.got["decision"] == names("d", 5)

    async def hang(_: Batch) -> None:
        await asyncio.sleep(60)

    sink.deliver = hang  # type: ignore[method-assign]
    spool.close()
    again = Spool(spool.folder)
    put(again, "decision", "left")
    async with shipping(again, sink, drain=0.2):
        start = time.monotonic()
    assert time.monotonic() - start < 30.0  # the sink would have taken a minute
    newest = segments.segments(again.folder, "decision")[-1].read_bytes().splitlines(keepends=True)[-1]
    assert new_shipper(again, MemorySink()).pending == len(newest)
    again.close()


@pytest.mark.parametrize("linger", [0.0, 60.0])
async def test_a_clock_set_back_delays_nothing(linger: float, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = MemorySink(linger=linger)
    shipper = new_shipper(spool, sink)
    assert not await shipper.ship_once()
    put(spool, "decision", "d")
    wall, steady = time.time, time.monotonic
    monkeypatch.setattr(time, "time", lambda: wall() - 7200)
    monkeypatch.setattr(time, "monotonic", lambda: steady() + linger)
    assert await shipper.ship_once() == 1
    assert sink.got["decision"] == ["d"]


class _Crash(BaseException):
    """A simulated crash of the process."""


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from(KINDS), st.integers(1, 6)),
        st.tuples(st.just("ship"), st.integers(0, 5), st.sampled_from(["ok", "down", "crash before", "crash after"])),
        st.tuples(st.just("restart")),
        st.tuples(st.just("damage"), st.sampled_from([b"", b"{}", b'{"decision": [1, 7]}'])),
        st.tuples(st.just("prune")),
    ),
    max_size=25,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS)
def test_any_order_of_events_delivers_all_at_least_once_and_in_order(
    steps: list[tuple[Any, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    written: dict[Kind, list[str]] = {kind: [] for kind in KINDS}
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
        interrupted = new_shipper(spool, sink)
        with contextlib.suppress(SinkUnavailable, _Crash):
            while await interrupted.ship_once():
                pass

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
                (folder / SHIPPED).write_bytes(content)
            case ("prune",):
                spool.prune([segments.positions(folder, SHIPPED)], time.time() + 60)
    crash_at(0, "ok")
    asyncio.run(some_rounds())
    spool.close()
    for kind in KINDS:
        assert distinct(sink.got[kind]) == written[kind]
