"""The embedded ledger's file: absent, foreign, locked, replaced, or of an older version."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
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


# ---- a file of version 1, as the release before wrote it

_VERSION_1 = """
CREATE TABLE account (
    id INTEGER PRIMARY KEY,
    arm TEXT NOT NULL,
    campaign TEXT NOT NULL,
    channel TEXT NOT NULL,
    cap INTEGER NOT NULL CHECK (cap >= 0),
    spent INTEGER NOT NULL DEFAULT 0 CHECK (spent >= 0),
    reserved INTEGER NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    excess INTEGER NOT NULL DEFAULT 0 CHECK (excess >= 0),
    active INTEGER NOT NULL DEFAULT 1,
    UNIQUE (arm, campaign, channel)
);

-- The code checks before it reserves; the database does not take its word for it.
CREATE TRIGGER hard_cap BEFORE UPDATE OF spent, reserved ON account
WHEN NEW.spent + NEW.reserved > NEW.cap AND NEW.spent + NEW.reserved > OLD.spent + OLD.reserved
BEGIN
    SELECT RAISE(ABORT, 'spent + reserved would exceed the limit');
END;

CREATE TABLE reservation (
    id TEXT PRIMARY KEY,
    amount INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'settled', 'cancelled')),
    charged INTEGER NOT NULL DEFAULT 0,
    excess INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX open_reservation ON reservation (id) WHERE state = 'open';

-- The accounts that a reservation draws on; they are settled even if the experiment no longer names them.
CREATE TABLE hold (
    reservation TEXT NOT NULL REFERENCES reservation (id),
    account INTEGER NOT NULL REFERENCES account (id),
    PRIMARY KEY (reservation, account)
) WITHOUT ROWID;

PRAGMA user_version = 1;
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(_VERSION_1)
        db.executescript(
            """
            INSERT INTO account VALUES (1, 'a', '*', '*', 10000000000, 3000000000, 2000000000, 500000000, 1);
            INSERT INTO account VALUES (2, 'a', 'c1', '*', 4000000000, 3000000000, 0, 0, 0);
            INSERT INTO reservation VALUES ('open', 2000000000, 'open', 0, 0);
            INSERT INTO reservation VALUES ('settled', 4000000000, 'settled', 3000000000, 500000000);
            INSERT INTO reservation VALUES ('cancelled', 1000000000, 'cancelled', 0, 0);
            INSERT INTO hold VALUES ('open', 1), ('settled', 1), ('settled', 2), ('cancelled', 1);
            """
        )
    return path


def test_an_old_file_keeps_its_money(old: Path) -> None:
    ledger = SqliteLedger(old)
    assert balance(ledger) == Balance("a", "*", "*", 10.0, spent=3.0, reserved=2.0, excess=0.5)
    assert ledger.open_reservations() == ["open"]
    ledger.define([Account("a", "*", "*", 10.0), Account("a", "c1", "*", 4.0)])
    assert balance(ledger, campaign="c1").spent == 3.0
    assert not ledger.reserve("r1", "a", "c2", "x", 5.1) and not ledger.reserve("r1", "a", "c1", "x", 1.1)
    assert ledger.reserve("r1", "a", "c1", "x", 1.0)
    assert ledger.reserve("open", "a", "c2", "x", 2.0) and not ledger.reserve("open", "a", "c2", "x", 1.0)
    assert not ledger.reserve("cancelled", "a", "c2", "x", 1.0)
    assert ledger.settle("settled", 9.0) == Settlement(3.0, 0.5)
    assert ledger.expire(60) == 0  # it ages from now on
    assert ledger.settle("open", 1.5) == Settlement(1.5, 0.0)
    assert ledger.settle("cancelled", 0.25) == Settlement(0.0, 0.25)
    assert balance(ledger) == Balance("a", "*", "*", 10.0, spent=4.5, reserved=1.0, excess=0.75)
    with closing(sqlite3.connect(old)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        with pytest.raises(sqlite3.IntegrityError, match="limit"):
            db.execute("UPDATE book SET reserved = 10000000001")
    assert tables == {"account", "book", "memory", "request", "reservation", "hold"}


def test_an_old_file_is_brought_up_to_date_once(old: Path) -> None:
    found: list[object] = []

    def look() -> None:
        try:
            found.append(balance(SqliteLedger(old, patience=30)).spent)
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [3.0] * 8


def test_an_update_that_fails_leaves_the_old_file(old: Path) -> None:
    with closing(sqlite3.connect(old)) as db:
        db.execute("CREATE TABLE book (x)")
    with pytest.raises(LedgerUnavailable, match="book"):
        SqliteLedger(old).balances()
    with closing(sqlite3.connect(old)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT spent, reserved FROM account").fetchall() == [(3 * 10**9, 2 * 10**9), (3 * 10**9, 0)]
        db.execute("DROP TABLE book")
    assert balance(SqliteLedger(old)).spent == 3.0
