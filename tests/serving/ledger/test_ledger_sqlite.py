"""Tests that a missing, foreign, locked or replaced ledger file never causes an overspend."""

import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from serving.ledger.contract import RETENTION_SECONDS, Account, LedgerUnavailable
from serving.ledger.sqlite_ledger import SqliteLedger
from serving.messages import LEDGER_SCHEMA
from tests.messages import raises
from tests.serving.ledgers import Clock, cancel, reserve, settle
from tests.waiting import eventually


@pytest.fixture
def ledger(tmp_path: Path) -> SqliteLedger:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    ledger.define([Account("a", "*", "*", 10.0), Account("b", "*", "*", 5.0)])
    return ledger


def test_without_a_file_nothing_is_spent(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "absent.sqlite")
    for call in (ledger.balances, lambda: reserve(ledger, "r", "a", "c", "x", 0.1), lambda: cancel(ledger, "r")):
        with pytest.raises(LedgerUnavailable, match="absent"):
            call()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LedgerUnavailable):
        SqliteLedger(tmp_path / "no-folder" / "ledger.sqlite").define([])


def test_a_file_that_vanishes_gives_no_new_budget(ledger: SqliteLedger) -> None:
    ledger.path.unlink()
    with pytest.raises(LedgerUnavailable):
        reserve(ledger, "r", "a", "c", "x", 0.1)
    ledger.path.write_bytes(b"")
    with pytest.raises(LedgerUnavailable, match="replaced"):
        ledger.define([Account("a", "*", "*", 1.0)])


def test_a_file_that_is_no_ledger(tmp_path: Path) -> None:
    text, other = tmp_path / "text", tmp_path / "other"
    text.write_text("this is not a database, it is a text of some length " * 30)
    with sqlite3.connect(other) as db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(LedgerUnavailable, match=r"text: .*database"):
        SqliteLedger(text).define([])
    with raises(LedgerUnavailable, LEDGER_SCHEMA, ledger=other, found=9):
        SqliteLedger(other).define([])


def test_room_is_the_free_space_of_the_disk(ledger: SqliteLedger, tmp_path: Path) -> None:
    """The free space can be read even while another process has locked the file."""
    blocker = sqlite3.connect(ledger.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    room = SqliteLedger(ledger.path, patience=0.05).room()
    blocker.close()
    disk = os.statvfs(tmp_path)
    assert room.store == "file" and room.device == tmp_path.stat().st_dev
    assert 0 < room.free < room.limit == disk.f_blocks * disk.f_frsize
    with pytest.raises(LedgerUnavailable, match="no-folder"):
        SqliteLedger(tmp_path / "no-folder" / "ledger.sqlite").room()


def test_a_locked_ledger_gives_up_within_its_patience(ledger: SqliteLedger) -> None:
    hasty = SqliteLedger(ledger.path, patience=0.05)
    blocker = sqlite3.connect(ledger.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailable, match="locked"):
        reserve(hasty, "r", "a", "c", "x", 0.1)
    blocker.execute("ROLLBACK")
    assert reserve(hasty, "r", "a", "c", "x", 0.1)
    blocker.close()


def test_calls_that_wait_share_a_commit(ledger: SqliteLedger) -> None:
    done: list[str] = []
    ledger._database._open().set_trace_callback(done.append)
    blocker = sqlite3.connect(ledger.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(reserve, ledger, f"r{i}", "a", "c", "x", 1.5) for i in range(8)]
        # The first call waits for the other process, and the seven other calls wait behind it.
        eventually(lambda: len(ledger._database._waiting) == 7)
        blocker.execute("ROLLBACK")
    assert sum(one.result() for one in answers) == 6, "the budget pays for six"
    assert done.count("COMMIT") == 2
    blocker.close()


def test_the_database_itself_enforces_the_cap(ledger: SqliteLedger) -> None:
    reserve(ledger, "r", "a", "c", "x", 0.1)
    db = sqlite3.connect(ledger.path, isolation_level=None)
    with pytest.raises(sqlite3.IntegrityError, match="limit"):
        db.execute("UPDATE book SET reserved = 10000000001")
    db.close()


def test_no_call_of_a_decision_scans_accounts_or_reservations(ledger: SqliteLedger) -> None:
    """A decision must cost the same with a million reservations, so no query may scan a table."""
    ledger.define([Account(arm, f"c{i}", "*", 10.0, "day") for arm in ("*", "a") for i in range(50)])
    reserve(ledger, "r0", "a", "c1", "x", 0.1, "q0")
    asked: list[str] = []
    db = ledger._database._open()
    db.set_trace_callback(asked.append)
    reserve(ledger, "r1", "a", "c1", "x", 0.1, "q1")
    settle(ledger, "r1", 0.05, "e1")
    settle(ledger, "r1", 0.05, "e2")
    cancel(ledger, "r0")
    ledger.expire(0.0)
    db.set_trace_callback(None)
    asked = [one for one in asked if one.startswith(("SELECT", "UPDATE"))]
    plans = [(plan[3], one) for one in asked for plan in db.execute(f"EXPLAIN QUERY PLAN {one}")]
    assert len(asked) > 10 and any("due_account" in plan for plan, _ in plans)
    assert not [(plan, one) for plan, one in plans if plan.startswith("SCAN") and "CONSTANT" not in plan]


def test_accounts_that_are_set_again_write_nothing(ledger: SqliteLedger) -> None:
    """The router sets up to 100,000 accounts again at each start and change."""
    accounts = [Account(arm, f"c{i}", "*", 10.0, "day") for arm in ("*", "a", "b") for i in range(100)]
    ledger.define(accounts)
    db = ledger._database._open()
    before = db.total_changes
    ledger.define(accounts)
    assert db.total_changes == before
    ledger.define([*accounts[:-1], Account("b", "c99", "*", 5.0, "day")])
    assert db.total_changes - before < 10


def test_one_expiry_forgets_more_than_a_second_adds(tmp_path: Path) -> None:
    clock = Clock()
    ledger = SqliteLedger(tmp_path / "ledger.sqlite", clock=clock)
    ledger.define([])
    ledger.cancel_all([f"r{i}" for i in range(1_500)])
    clock.now += RETENTION_SECONDS + 1
    ledger.expire(0.0)
    with closing(sqlite3.connect(ledger.path)) as db:
        assert db.execute("SELECT * FROM reservation").fetchall() == []
