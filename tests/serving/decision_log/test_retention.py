"""What the spool gives up: only what is shipped and old, never a decision with money on it; it stays in bounds."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.decision_log import Kind, Spool, SpoolUnavailable, position
from serving.decision_log.index import Index
from serving.decision_log.position import OLDEST, Position
from serving.decision_log.segments import OPEN_DECISIONS, segments
from serving.ledger import Account, SqliteLedger
from serving.router.flow.budgets import reconcile
from tests.serving.router_fixtures import in_loop
from tests.serving.shipping import MemorySink, names, put, record, ship_all, shipping, until

HOUR = 3600.0


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", segment_bytes=4400)
    yield spool
    spool.close()


def numbers(spool: Spool, kind: Kind) -> list[int]:
    return [int(path.stem.split("-")[1]) for path in segments(spool.folder, kind)]


def fill(spool: Spool, kind: Kind, number: int, first: int = 0, **changes: Any) -> None:
    for i in range(first, first + number):
        put(spool, kind, f"{kind}{i}", **changes)


def ship(spool: Spool, keep_hours: float, open_reservations: Any = ()) -> None:
    ship_all(spool, MemorySink(), prune=True, keep_hours=keep_hours, open_reservations=open_reservations)


def age(spool: Spool, hours: float) -> None:
    for path in spool.folder.iterdir():
        os.utime(path, (time.time() - hours * HOUR,) * 2)


def test_what_is_shipped_and_old_goes_except_the_newest(spool: Spool) -> None:
    fill(spool, "decision", 10)
    fill(spool, "outcome", 80)
    assert len(numbers(spool, "decision")) > 2 and len(numbers(spool, "outcome")) > 2
    newest = numbers(spool, "decision")[-1]
    ship(spool, keep_hours=168)
    assert numbers(spool, "decision") == list(range(1, newest + 1))  # shipped, but young
    age(spool, 169)
    fill(spool, "decision", 1, first=10)
    ship(spool, keep_hours=168)
    assert numbers(spool, "decision") == [numbers(spool, "decision")[-1]] and len(numbers(spool, "outcome")) == 1
    assert abs(spool.size - sum(path.stat().st_size for path in spool.folder.iterdir())) < 300  # shipped.json
    before = numbers(spool, "decision")[-1]
    fill(spool, "decision", 4, first=11)
    assert numbers(spool, "decision")[-1] > before  # a number is never used again


@in_loop
async def test_a_clock_that_is_ahead_for_a_while_makes_nothing_old(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads the spool's exports would have lost all decisions of the experiment."""
    fill(spool, "decision", 10)
    before = numbers(spool, "decision")
    real = time.time
    async with shipping(spool, MemorySink(), keep_hours=168) as running:
        await until(lambda: running.pending == 0)
        await running.prune()
        monkeypatch.setattr(time, "time", lambda: real() + 365 * 24 * HOUR)
        await running.prune()
        monkeypatch.setattr(time, "time", real)
        await running.prune()
    assert numbers(spool, "decision") == before


def test_what_is_not_shipped_stays_however_old(spool: Spool) -> None:
    fill(spool, "decision", 12)
    age(spool, 10_000)
    everything = numbers(spool, "decision")
    for at in (OLDEST, Position(1, 0), Position(1, 10**9)):
        spool.prune({"decision": at}, time.time(), list)
        assert numbers(spool, "decision") == everything
    spool.prune({"decision": Position(3, 0), "outcome": OLDEST}, time.time(), list)
    assert numbers(spool, "decision") == everything[2:]


@in_loop
async def test_only_what_was_noted_counts_as_shipped(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A position that is not on disk is forgotten by a crash: what it would ship again must still be there."""
    fill(spool, "decision", 12)
    age(spool, 10_000)
    everything = numbers(spool, "decision")

    save = position.save

    def full(folder: Path, positions: Any) -> None:
        if positions["decision"].segment > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(folder, positions)

    monkeypatch.setattr(position, "save", full)
    async with shipping(spool, MemorySink(), keep_hours=0) as running:
        await until(lambda: running.tally["failed", "disk"] > 0)
        await running.prune()
    assert numbers(spool, "decision") == everything[1:]


def test_without_the_ledgers_word_nothing_goes(spool: Spool) -> None:
    fill(spool, "decision", 12)
    age(spool, 10_000)
    everything = numbers(spool, "decision")
    ship(spool, keep_hours=0, open_reservations=None)
    assert numbers(spool, "decision") == everything


def test_a_reservation_outlives_the_segment_of_its_decision(tmp_path: Path) -> None:
    """After a restart it is still open: the ad was shown, and its cost may come yet."""
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    ledger.define([Account("incumbent", "*", "*", 100.0)])
    spool = Spool(tmp_path / "spool", segment_bytes=4400)
    for name in names("decision", 12):
        assert ledger.reserve(name, "incumbent", "spring", "search", 0.5)
        put(spool, "decision", name, reservation_id=name)
    for name in ("decision1", "decision9"):
        ledger.settle(name, 0.2)
    for turn in range(2):
        age(spool, 1)
        ship(spool, keep_hours=0, open_reservations=ledger.open_reservations())
        assert numbers(spool, "decision")[0] > 1 and (spool.folder / OPEN_DECISIONS).exists()
        spool.close()
        spool = Spool(tmp_path / "spool", segment_bytes=4400)
        assert reconcile(ledger, spool) == 0
        assert len(ledger.open_reservations()) == 10 - turn
        assert put(spool, "outcome", f"late{turn}", decision_id="decision0", kind="click") != ["dangling"]
        ledger.settle("decision2", 0.1)
        for i in range(4):
            put(spool, "decision", f"more{turn}-{i}", reservation_id=None)
    ship(spool, keep_hours=0, open_reservations=ledger.open_reservations())
    text = (spool.folder / OPEN_DECISIONS).read_text()
    assert text.count("\n") == 9 and '"decision2"' not in text
    spool.close()
    ledger.close()


def test_nothing_is_taken_beyond_the_quota_and_nothing_is_lost(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=4400, max_bytes=15_000)
    taken = []
    with pytest.raises(SpoolUnavailable, match="may not grow beyond 15000 bytes"):
        for i in range(100):
            put(spool, "decision", f"d{i}")
            taken.append(f"d{i}")
    assert 4 < len(taken) < 15 and spool.size <= 15_000
    while spool.size + 400 < 15_000:
        put(spool, "outcome", f"e{spool.size}")
    with pytest.raises(SpoolUnavailable):
        for i in range(10):
            put(spool, "outcome", f"f{i}")
    age(spool, 1)
    ship(spool, keep_hours=0)
    put(spool, "decision", "again")
    assert [record["decision_id"] for record in spool.read("decision")][-1] == "again"
    spool.close()
    spool = Spool(tmp_path, max_bytes=10)  # a quota that was lowered: it starts, and takes nothing
    with pytest.raises(SpoolUnavailable):
        put(spool, "decision", "no")
    spool.close()


def test_a_duplicate_needs_no_room(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=1000)
    put(spool, "outcome", "e0")
    spool.max_bytes = 1
    assert put(spool, "outcome", "e0") == ["duplicate"]
    spool.close()


def report(spool: Spool, event: str, decision: str) -> str:
    (status,) = put(spool, "outcome", event, decision_id=decision)
    return status


def test_the_index_forgets_segments_that_are_gone(spool: Spool) -> None:
    fill(spool, "decision", 12)
    fill(spool, "outcome", 40)
    age(spool, 1)
    ship(spool, keep_hours=0)
    put(spool, "decision", "tidy up")
    decisions = [record["decision_id"] for record in spool.read("decision")]
    events = [record["event_id"] for record in spool.read("outcome")]
    assert "decision0" not in decisions and "outcome0" not in events
    assert report(spool, "new", "decision0") == "dangling"  # kept, as any outcome
    assert [report(spool, f"of {name}", name) for name in decisions] == ["accepted"] * len(decisions)
    assert report(spool, "outcome0", decisions[0]) == "accepted"
    assert {report(spool, name, decisions[0]) for name in events} == {"duplicate"}


@pytest.mark.parametrize("restart", [False, True])
def test_the_index_is_bounded(tmp_path: Path, restart: bool) -> None:
    spool = Spool(tmp_path, segment_bytes=4400, max_known=10)
    fill(spool, "decision", 30)
    if restart:
        spool.close()
        spool = Spool(tmp_path, segment_bytes=4400, max_known=10)
    put(spool, "decision", "last")
    known = [name for name in names("decision", 30) if report(spool, f"of {name}", name) == "accepted"]
    assert 4 <= len(known) <= 13 and known == names("decision", 30)[-len(known) :]
    assert report(spool, "of last", "last") == "accepted"
    assert len(list(spool.read("decision"))) == 31
    spool.close()


def test_forgetting_takes_the_oldest_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.decision_log.index._FORGOTTEN_AT_ONCE", 3)
    index, events = Index(), [record("outcome", f"e{i}") for i in range(20)]
    for event in events:
        index.add("outcome", event)
    index.forget("outcome", 5)
    index.tidy()
    index.forget("outcome", 5)
    for expected in (14, 11, 10, 10):
        index.tidy()
        assert sum(index.knows("outcome", event) for event in events) == expected
    assert [index.knows("outcome", event) for event in events] == [False] * 10 + [True] * 10
