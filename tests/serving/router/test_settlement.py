"""What the ledger can't take now is finished later: all of it, in spite of some, and a cost is never undone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serving.ledger import Account, LedgerUnavailable, SqliteLedger
from serving.router.flow import budgets
from serving.router.flow.budgets import Settler
from tests.serving.router_fixtures import in_loop


@pytest.fixture
def ledger(tmp_path: Path) -> SqliteLedger:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    ledger.define([Account("a", "*", "*", 10.0)])
    for i in range(1, 7):
        assert ledger.reserve(f"r{i}", "a", "c", "video", 1.0)
    return ledger


def test_a_cost_that_waits_is_not_undone_by_a_cancel(ledger: SqliteLedger) -> None:
    async def scenario() -> None:
        settler = Settler(ledger)
        settler.finish_later("r1", {"e": 0.4})
        settler.finish_later("r1", {})
        settler.finish_later("r2", {})
        settler.finish_later("r2", {"e": 0.3})
        assert await settler.flush()

    asyncio.run(scenario())
    (balance,) = ledger.balances()
    assert (balance.spent, balance.reserved) == (0.7, 4.0)


def test_costs_of_one_reservation_that_wait_together_add_up(ledger: SqliteLedger) -> None:
    async def scenario() -> None:
        settler = Settler(ledger)
        for event in ("e1", "e2", "e2"):
            settler.finish_later("r1", {event: 0.2})
        assert await settler.flush()

    asyncio.run(scenario())
    (balance,) = ledger.balances()
    assert (balance.spent, balance.reserved) == (0.4, 5.0)


def test_what_can_not_be_finished_does_not_stand_in_the_way(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = ledger.settle

    def stubborn(name: str, actual: float, event: str) -> object:
        if name in ("r1", "r2", "r3", "r4"):  # more than make it look as if the ledger were away
            raise RuntimeError("out of range")
        return settle(name, actual, event)

    async def scenario() -> None:
        settler = Settler(ledger)
        monkeypatch.setattr(ledger, "settle", stubborn)
        monkeypatch.setattr(budgets, "RETRY_SECONDS", 0.01)
        task = asyncio.create_task(settler.run())
        for i in range(1, 7):
            settler.finish_later(f"r{i}", {"e": 0.5})
        while ledger.balances()[0].spent < 1.0:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(ledger, "settle", settle)
        while ledger.balances()[0].spent < 3.0:
            await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 20))


@in_loop
async def test_whatever_goes_wrong_the_caller_is_not_told_for_its_outcome_is_in_the_log(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str, actual: float, event: str) -> object:
        raise RuntimeError("out of range")

    settler = Settler(ledger)
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "settle", broken)
        await settler.finish("r1", {"e": 0.5}, 5.0)
    assert await settler.flush() and ledger.balances()[0].spent == 0.5


@in_loop
async def test_a_ledger_that_is_away_is_left_alone_and_memory_is_bounded(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def away(name: str) -> None:
        calls.append(name)
        raise LedgerUnavailable("away")

    monkeypatch.setattr(budgets, "MOST_PENDING", 5)
    monkeypatch.setattr(ledger, "cancel", away)
    settler = Settler(ledger)
    for i in range(5):
        assert not settler.full
        settler.finish_later(f"x{i}", {})
    assert settler.full and not await settler.flush()
    assert len(calls) == 3
