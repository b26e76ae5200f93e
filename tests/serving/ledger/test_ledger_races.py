"""Tests that racing or killed threads and processes never exceed a ledger's limit."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from serving.ledger import money, open_ledger
from tests.repository import ROOT
from tests.serving.ledger_writer import ACCOUNTS
from tests.serving.ledgers import Place

CAPS = {(a.arm, a.campaign, a.channel, a.period): money.limit(a.limit) for a in ACCOUNTS}


def _writers(where: str, count: int, threads: int, rounds: int) -> list[subprocess.Popen[str]]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "serving" / "ledger_writer.py"), where]
    writers = [
        subprocess.Popen(
            [*command, str(n), str(threads), str(rounds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        for n in range(count)
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    return writers


def _caps_hold(place: Place) -> None:
    for (*account, _), (spent, reserved, _) in place.books().items():
        assert spent + reserved <= CAPS[tuple(account)]


@pytest.mark.integration
def test_processes_and_threads_that_race_for_the_last_cent(place: Place) -> None:
    open_ledger(place.where, 5.0).define(ACCOUNTS)
    # The limits allow about 120 of 768 attempts.
    writers = _writers(place.where, 2, 32, 12)
    while any(writer.poll() is None for writer in writers):
        _caps_hold(place)
        time.sleep(0.01)
    outputs = [writer.communicate(timeout=600)[0] for writer in writers]
    assert all(writer.returncode == 0 for writer in writers)
    charged = {name: cost for output in outputs for name, cost in json.loads(output).items()}
    ledger = open_ledger(place.where, 5.0)
    spent = {(b.campaign, b.period): b.spent for b in ledger.balances()}
    assert spent["*", "total"] == pytest.approx(sum(charged.values()), abs=1e-9)
    assert spent["*", "total"] > 4.4 or spent["c1", "total"] > 2.9  # the budget was nearly used up
    assert all(name.startswith("all-") for name in ledger.open_reservations())
    _caps_hold(place)


@pytest.mark.integration
def test_a_writer_killed_halfway_leaves_a_consistent_ledger(place: Place) -> None:
    for turn in range(5):
        (writer,) = _writers(place.where, 1, 1, 10**6)
        time.sleep(0.05 + 0.07 * turn)
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        _caps_hold(place)
    ledger = open_ledger(place.where, 5.0)
    own = [name for name in ledger.open_reservations() if not name.startswith("all-")]
    # Each killed writer leaves at most one open reservation.
    assert len(own) <= 5
    ledger.expire(0)
    assert all(b.reserved == 0 for b in ledger.balances())
