"""Tests that pending settlements are retried until they succeed."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from serving.ledger.contract import Account, LedgerUnavailable
from serving.ledger.sqlite_ledger import SqliteLedger
from serving.router.flow import budgets
from serving.router.flow.budgets import Settler
from tests.serving.ledgers import reserve
from tests.waiting import until


@pytest.fixture
def ledger(tmp_path: Path) -> SqliteLedger:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    ledger.define([Account("a", "*", "*", 10.0)])
    for i in range(1, 7):
        assert reserve(ledger, f"r{i}", "a", "c", "video", 1.0)
    return ledger


@pytest.mark.parametrize(
    ("waiting", "spent", "reserved"),
    [
        ([("r1", {"e": 0.4}), ("r1", {}), ("r2", {}), ("r2", {"e": 0.3})], 0.7, 4.0),
        ([("r1", {event: 0.2}) for event in ("e1", "e2", "e2")], 0.4, 5.0),
    ],
    ids=["a cancel undoes no cost", "costs add up"],
)
async def test_pending_costs_are_merged(ledger: SqliteLedger, waiting: Any, spent: float, reserved: float) -> None:
    settler = Settler(ledger)
    for reservation, costs in waiting:
        settler.finish_later(reservation, costs)
    assert await settler.flush()
    (balance,) = ledger.balances()
    assert (balance.spent, balance.reserved) == (spent, reserved)


async def test_a_failing_settlement_blocks_no_other(ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    settlement = ledger._settlement

    def stubborn(name: str, *cost: Any) -> Any:
        def fails(db: object) -> Any:
            raise RuntimeError("out of range")

        return fails if name in ("r1", "r2", "r3") else settlement(name, *cost)

    settler = Settler(ledger)
    monkeypatch.setattr(ledger, "_settlement", stubborn)
    monkeypatch.setattr(budgets, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(budgets, "TOGETHER", 2)
    task = asyncio.create_task(settler.run())
    await settler.finish([(name, {"e": 0.5}) for name in ("r1", "r2")], 5.0)  # the caller gets no error
    for i in range(3, 7):
        settler.finish_later(f"r{i}", {"e": 0.5})
    await until(lambda: ledger.balances()[0].spent == 1.5)
    monkeypatch.setattr(ledger, "_settlement", settlement)
    await until(lambda: ledger.balances()[0].spent == 3.0 and not settler.pending)
    assert not task.done()
    task.cancel()


async def test_a_flush_stops_at_a_ledger_outage_and_memory_is_bounded(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def away(names: list[str]) -> None:
        calls.append(len(names))
        raise LedgerUnavailable("away")

    monkeypatch.setattr(budgets, "MOST_PENDING", 5)
    monkeypatch.setattr(budgets, "TOGETHER", 2)
    monkeypatch.setattr(ledger, "cancel_all", away)
    settler = Settler(ledger)
    for i in range(5):
        assert not settler.full
        settler.finish_later(f"x{i}", {})
    assert settler.full and not await settler.flush() and calls == [2]


async def test_calls_that_hang_delay_no_other_work(ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    settler, back = Settler(ledger), threading.Event()
    settle_all = ledger.settle_all

    def hangs(costs: Any) -> Any:
        back.wait(300)
        return settle_all(costs)

    monkeypatch.setattr(ledger, "settle_all", hangs)
    # More calls than the event loop has threads
    for i in range(40):
        await settler.finish([(f"r{1 + i % 6}", {f"e{i}": 0.01})], 0.001)
    async with asyncio.timeout(60):
        await asyncio.to_thread(ledger.now)
    assert settler.pending == 6
    back.set()
    assert await settler.flush()
    assert ledger.balances()[0].spent == 0.4
