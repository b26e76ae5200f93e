"""The A/A runs of pacing: their ledger is one, and what they say follows from the seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.pacing_runs.days import MIDNIGHT, Kind, Phase, run
from benchmarks.pacing_runs.ledger import MemoryLedger
from serving.ledger.contract import Account
from serving.ledger.sqlite_ledger import SqliteLedger


@pytest.mark.parametrize("clock", ["day", "time"])
def test_the_ledger_in_memory_says_what_a_real_one_says(clock: str, tmp_path: Path) -> None:
    kind, rng, now = Kind("", (Phase(48, "5%"),), 100, clock), np.random.default_rng(0), MIDNIGHT
    memory, real = MemoryLedger(lambda: now), SqliteLedger(tmp_path / "ledger.db", clock=lambda: now)
    accepted = []
    for step in range(300):
        if step % 30 == 0:
            phase = Phase(1, str(rng.choice(["1%", "5%", "25%", "50%"])), bool(rng.random() < 0.8))
            limits = kind.experiment(0, phase).accounts()
            accounts = [Account(x.arm, x.campaign, x.channel, x.limit, x.period, x.timezone) for x in limits]
            memory.define(accounts)
            real.define(accounts)
        now += float(rng.exponential(600.0))
        arm, cost = str(rng.choice(["challenger", "incumbent"])), float(rng.uniform(0.1, 0.3))
        accepted.append(memory.spend(arm, 0.4, cost))
        assert real.reserve(str(step), arm, "campaign", "search", 0.4) == accepted[-1]
        if accepted[-1]:
            real.settle(str(step), cost)
        found = {(b.arm, b.start): b for b in real.balances()}
        for balance in memory.balances():
            other = found.pop((balance.arm, balance.start))
            assert (balance.limit, balance.spent) == pytest.approx((other.limit, other.spent), abs=1e-8)
        assert not found
    assert any(accepted)
    assert not all(accepted)
    real.close()


@pytest.mark.parametrize("clock", ["day", "time", "count"])
def test_a_run_spends_no_more_than_it_has_and_repeats(clock: str) -> None:
    kind = Kind("", (Phase(6, "25%"), Phase(18, "50%")), 400, clock)
    first = run(kind, 1)
    assert first == run(kind, 1)
    assert all(0.3 < share <= 1.0 for share in first.spent)
    assert first != run(kind, 2)
