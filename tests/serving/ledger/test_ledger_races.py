"""Many threads of several processes at one ledger, and processes that are killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from serving.ledger import Account, Ledger, LedgerUnavailable, money, open_ledger
from tests.redis_server import redis_server
from tests.repository import ROOT
from tests.serving.ledger_writer import ACCOUNTS
from tests.serving.ledgers import Place

CAPS = {(a.arm, a.campaign, a.channel, a.period): money.limit(a.limit) for a in ACCOUNTS}


def _writers(where: str, count: int, threads: int, rounds: int) -> list[subprocess.Popen[str]]:
    """Processes that write at the same time: none starts before all are there."""
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
    writers = _writers(place.where, 2, 32, 12)  # 768 attempts, of which the limits allow about 120
    while any(writer.poll() is None for writer in writers):
        _caps_hold(place)
        time.sleep(0.01)
    outputs = [writer.communicate(timeout=600)[0] for writer in writers]
    assert all(writer.returncode == 0 for writer in writers)
    charged = {name: cost for output in outputs for name, cost in json.loads(output).items()}
    ledger = open_ledger(place.where, 5.0)
    spent = {(b.campaign, b.period): b.spent for b in ledger.balances()}
    assert spent["*", "total"] == pytest.approx(sum(charged.values()), abs=1e-9)
    assert spent["*", "total"] > 4.4 or spent["c1", "total"] > 2.9  # it was a race for the last cent
    assert all(name.startswith("all-") for name in ledger.open_reservations())
    _caps_hold(place)


@pytest.mark.integration
def test_a_writer_killed_in_the_middle_leaves_a_sound_ledger(place: Place) -> None:
    for turn in range(5):
        (writer,) = _writers(place.where, 1, 1, 10**6)
        time.sleep(0.05 + 0.07 * turn)
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        _caps_hold(place)
    ledger = open_ledger(place.where, 5.0)
    own = [name for name in ledger.open_reservations() if not name.startswith("all-")]
    assert len(own) <= 5  # at most the one in flight at each kill
    ledger.expire(0)
    assert all(b.reserved == 0 for b in ledger.balances())


@pytest.mark.integration
def test_a_redis_killed_in_the_middle_loses_nothing_that_it_acknowledged(tmp_path: Path, wait_for: Any) -> None:
    settings = {"appendonly": "yes", "appendfsync": "always"}
    granted: set[str] = set()
    charged: dict[str, float] = {}
    cancelled: set[str] = set()
    unknown: set[str] = set()  # calls that got no answer
    stop = threading.Event()

    def spend(ledger: Ledger, worker: str) -> None:
        for i in range(10**6):
            name = f"{worker}-{i}"
            if stop.is_set():
                return
            try:
                if ledger.reserve(name, "a", "c", "x", 0.05):
                    granted.add(name)
                    if i % 3 == 0:
                        charged[name] = ledger.settle(name, 0.04).charged
                    elif i % 3 == 1:
                        ledger.cancel(name)
                        cancelled.add(name)
            except LedgerUnavailable:
                unknown.add(name)
                time.sleep(0.01)

    with redis_server(tmp_path, **settings) as port:
        place = Place("redis", tmp_path, port)
        ledger = open_ledger(place.where, 2.0)
        ledger.define([Account("a", "*", "*", 100.0)])
        workers = [threading.Thread(target=spend, args=(ledger, str(n))) for n in range(8)]
        for worker in workers:
            worker.start()
        assert wait_for(lambda: len(granted) >= 50)
        os.kill(redis.Redis(port=port).info("server")["process_id"], signal.SIGKILL)
    answered = len(granted)
    assert wait_for(lambda: unknown)
    with redis_server(tmp_path, port, **settings):
        assert wait_for(lambda: len(granted) >= answered + 50)
        stop.set()
        for worker in workers:
            worker.join()
        assert unknown and answered and len(granted) > answered  # it was in the middle, and went on
        assert not unknown & (set(charged) | cancelled)
        still_open = set(ledger.open_reservations())
        waiting = granted - set(charged) - cancelled
        assert waiting - unknown <= still_open <= waiting | unknown
        for name, cost in charged.items():
            assert ledger.settle(name, 0.01).charged == cost
        assert not any(ledger.reserve(name, "a", "c", "x", 0.05) for name in cancelled)
        (b,) = ledger.balances()
        assert sum(charged.values()) - 1e-9 <= b.spent <= sum(charged.values()) + 0.04 * len(unknown)
        assert b.reserved == pytest.approx(0.05 * len(still_open)) and b.spent + b.reserved <= b.limit
