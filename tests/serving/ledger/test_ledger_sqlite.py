"""The embedded ledger's file: absent, foreign, locked, or replaced."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import pytest

from serving.ledger import Account, Balance, LedgerUnavailable, Settlement, SqliteLedger, UnknownReservation
from tests.serving.ledgers import balance


@pytest.fixture
def ledger(tmp_path: Path) -> SqliteLedger:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    ledger.define([Account("a", "*", "*", 10.0), Account("b", "*", "*", 5.0)])
    return ledger


def test_no_file_no_spend(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "absent.sqlite")
    for call in (ledger.balances, lambda: ledger.reserve("r", "a", "c", "x", 0.1), lambda: ledger.cancel("r")):
        with pytest.raises(LedgerUnavailable, match="absent"):
            call()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LedgerUnavailable):
        SqliteLedger(tmp_path / "no-folder" / "ledger.sqlite").define([])


def test_a_file_that_vanishes_is_not_a_fresh_budget(ledger: SqliteLedger) -> None:
    ledger.path.unlink()
    with pytest.raises(LedgerUnavailable):
        ledger.reserve("r", "a", "c", "x", 0.1)
    ledger.path.write_bytes(b"")
    with pytest.raises(LedgerUnavailable, match="replaced"):
        ledger.define([Account("a", "*", "*", 1.0)])


def test_a_file_that_is_no_ledger(tmp_path: Path) -> None:
    text, other = tmp_path / "text", tmp_path / "other"
    text.write_text("this is not a database, it is a text of some length " * 30)
    with sqlite3.connect(other) as db:
        db.execute("PRAGMA user_version = 9")
    for path in (text, other):
        with pytest.raises(LedgerUnavailable, match=path.name):
            SqliteLedger(path).define([])


def test_a_locked_ledger_gives_up_within_its_patience(ledger: SqliteLedger) -> None:
    hasty = SqliteLedger(ledger.path, patience=0.05)
    blocker = sqlite3.connect(ledger.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailable, match="locked"):
        hasty.reserve("r", "a", "c", "x", 0.1)
    blocker.execute("ROLLBACK")
    assert hasty.reserve("r", "a", "c", "x", 0.1)
    blocker.close()


def test_the_database_itself_holds_the_cap(ledger: SqliteLedger) -> None:
    ledger.reserve("r", "a", "c", "x", 0.1)
    db = sqlite3.connect(ledger.path, isolation_level=None)
    with pytest.raises(sqlite3.IntegrityError, match="limit"):
        db.execute("UPDATE book SET reserved = 10000000001")
    db.close()


def test_calls_that_wait_share_a_commit_and_one_that_fails_fails_alone(ledger: SqliteLedger) -> None:
    results: dict[str, object] = {}

    def call(name: str, *arguments: object) -> None:
        try:
            results[name] = getattr(ledger, name.split()[0])(*arguments)
        except Exception as error:
            results[name] = error

    ledger.reserve("r0", "b", "c", "x", 1.0)
    calls = [
        ("reserve 1", "r1", "b", "c", "x", 1.0),
        ("settle unknown", "r9", 1.0),
        ("settle 0", "r0", 0.5),
        ("reserve too much", "r2", "b", "c", "x", 4.0),
        ("cancel 3", "r3"),
    ]
    writes = sqlite3.connect(ledger.path, isolation_level=None)
    with ledger._commit.lock:
        threads = [threading.Thread(target=call, args=arguments) for arguments in calls]
        for thread in threads:
            thread.start()
        while len(ledger._commit._waiting) < len(calls):
            time.sleep(0.001)
        before = writes.execute("PRAGMA data_version").fetchone()[0]
    for thread in threads:
        thread.join()
    assert results["reserve 1"] is True and results["reserve too much"] is False
    assert results["settle 0"] == Settlement(0.5, 0.0) and results["cancel 3"] is None
    assert isinstance(results["settle unknown"], UnknownReservation)
    assert writes.execute("PRAGMA data_version").fetchone()[0] == before + 1
    writes.close()
    assert balance(ledger, "b") == Balance("b", "*", "*", 5.0, spent=0.5, reserved=1.0, excess=0.0)
