"""The SQLite database of a ledger in a file.

Calls that wait for the database share one transaction and so one sync to disk (group commit). One thread runs the
functions of all waiting threads.
"""

import contextlib
import os
import sqlite3
import threading
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mtorl.runtime.locks import acquire
from serving import messages
from serving.ledger.contract import LedgerInUse, LedgerUnavailable

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

_VERSION = 1  # schema version, stored in the file

_CHANGES = "".join(
    f"""
CREATE TRIGGER {table}_{event} AFTER {event} ON {table}
BEGIN
    INSERT INTO change VALUES ({campaign}, (SELECT ifnull(max(number), 0) + 1 FROM change))
    ON CONFLICT DO UPDATE SET number = excluded.number;
END;
"""
    for table, campaign in {
        "account": "NEW.campaign",
        "book": "(SELECT campaign FROM account WHERE id = NEW.account)",
    }.items()
    for event in ("INSERT", "UPDATE")
)

_TABLES = f"""
-- Amounts are in nano-units (`money.py`), times in seconds since 1970.
CREATE TABLE account (
    id INTEGER PRIMARY KEY,
    arm TEXT NOT NULL,
    campaign TEXT NOT NULL,
    channel TEXT NOT NULL,
    period TEXT NOT NULL CHECK (period IN ('total', 'day', 'hour')),
    cap INTEGER NOT NULL CHECK (cap >= 0),  -- limit of the next period
    timezone TEXT NOT NULL,
    parts TEXT NOT NULL,  -- how the budget is divided into accounts
    start INTEGER NOT NULL,  -- start of the current period
    until INTEGER NOT NULL,
    active INTEGER NOT NULL,
    UNIQUE (arm, campaign, channel, period)
);

CREATE INDEX account_of_campaign ON account (campaign);
CREATE INDEX due_account ON account (until) WHERE active;

-- A book has the amounts of one account in one period. Books are never deleted: more traffic makes no more books.
CREATE TABLE book (
    id INTEGER PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES account (id),
    start INTEGER NOT NULL,
    spent INTEGER NOT NULL DEFAULT 0 CHECK (spent >= 0),
    reserved INTEGER NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    excess INTEGER NOT NULL DEFAULT 0 CHECK (excess >= 0),
    cap INTEGER NOT NULL DEFAULT 0 CHECK (cap >= 0),
    UNIQUE (account, start)
);

-- The code checks the limit before it reserves an amount. This trigger enforces the limit even if that code has a bug.
CREATE TRIGGER hard_cap BEFORE UPDATE OF spent, reserved ON book
WHEN NEW.spent + NEW.reserved > NEW.cap AND NEW.spent + NEW.reserved > OLD.spent + OLD.reserved
BEGIN
    SELECT RAISE(ABORT, 'spent + reserved would exceed the limit');
END;

-- The number of the last change to the accounts of each campaign.
CREATE TABLE change (campaign TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX changed ON change (number);
{_CHANGES}
-- The state 'late' means that a cost was reported after the reservation was cancelled or had expired.
CREATE TABLE reservation (
    id TEXT PRIMARY KEY,
    scope TEXT,  -- arm, campaign and channel as JSON; null if the reservation was cancelled before it was made
    amount INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'settled', 'cancelled', 'expired', 'late')),
    created REAL NOT NULL,
    finished REAL,
    charged INTEGER NOT NULL DEFAULT 0,
    excess INTEGER NOT NULL DEFAULT 0,
    books TEXT NOT NULL DEFAULT '[]',  -- ids of the books that it reduces, as JSON
    events TEXT NOT NULL DEFAULT '[]',  -- ids of the events that reported its costs, as JSON
    request TEXT  -- the request that it pays for, so that a retried request is not paid for twice
) WITHOUT ROWID;
CREATE INDEX requested ON reservation (request) WHERE request IS NOT NULL;
CREATE INDEX open_reservation ON reservation (created) WHERE state = 'open';
CREATE INDEX settled_reservation ON reservation (finished) WHERE state IN ('settled', 'late');
CREATE INDEX unpaid_reservation ON reservation (finished) WHERE state IN ('cancelled', 'expired');

-- Pacing (`pacing_store.py`): the state of each account and, if its time is counted in opportunities, their number.
CREATE TABLE pacing (account TEXT PRIMARY KEY, state TEXT, opportunities INTEGER) WITHOUT ROWID;

-- One row with a unique random name of this ledger.
CREATE TABLE identity (name TEXT NOT NULL);
INSERT INTO identity (name) VALUES (lower(hex(randomblob(16))));
PRAGMA user_version = {_VERSION};
"""


@dataclass(eq=False)
class _Call:
    works: Sequence[Work[Any]]
    answers: Sequence[Any] | LedgerUnavailable | None = None  # None while the call waits


class Database:
    """A SQLite file. Each transaction acquires the write lock at its start (BEGIN IMMEDIATE)."""

    def __init__(self, path: Path, patience: float) -> None:
        self._path = path
        self._patience = patience  # longest wait in seconds for threads, and then for processes
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._claim: int | None = None
        self._waiting: deque[_Call] = deque()
        self._lock = threading.Lock()  # guards the connection

    def claim(self) -> None:
        """Lock the file until `close`; raises LedgerInUse or LedgerUnavailable."""
        if self._claim is not None:
            return
        try:
            self._claim = acquire(self._path.with_name(f".{self._path.name}.lock"))
        except BlockingIOError as error:
            raise LedgerInUse(messages.LEDGER_IN_USE(ledger=self._path)) from error
        except OSError as error:
            raise LedgerUnavailable(f"{self._path}: {error}") from error

    def create_if_new(self) -> None:
        """Create the file atomically if it does not exist."""
        if self._connection is not None or self._path.exists():
            return
        unfinished = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}")
        try:
            with contextlib.closing(sqlite3.connect(unfinished, isolation_level=None)) as db:
                db.execute("PRAGMA journal_mode = WAL")  # the file stores this setting
                db.executescript(_TABLES)
            with contextlib.suppress(FileExistsError):  # another process has created it
                os.link(unfinished, self._path)
        except (sqlite3.Error, OSError) as error:
            raise LedgerUnavailable(f"{self._path}: {error}") from error
        finally:
            unfinished.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the connection, and unlock the file."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if self._claim is not None:
                os.close(self._claim)
                self._claim = None

    def run(self, work: Work[T]) -> T:
        """Run a function in a transaction; returns its result once its changes are durable.

        Even if LedgerUnavailable is raised, the changes may be committed later.
        """
        (answer,) = self.run_each([work])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def run_each(self, works: Sequence[Work[T]]) -> list[T | Exception]:
        """Run several functions in one transaction; returns results or errors."""
        call = _Call(works)
        self._waiting.append(call)
        if not self._lock.acquire(timeout=self._patience):
            with contextlib.suppress(ValueError):  # another thread may have just begun to run it
                self._waiting.remove(call)
            raise LedgerUnavailable(f"{self._path}: busy for {self._patience:g} s")
        try:
            if call.answers is None:
                self._run_waiting()
        finally:
            self._lock.release()
        if isinstance(call.answers, LedgerUnavailable):
            raise call.answers
        assert call.answers is not None, "the thread that had the lock did all that waited"
        return list(call.answers)

    def _run_waiting(self) -> None:
        calls: list[_Call] = []
        while self._waiting:
            with contextlib.suppress(IndexError):  # the calling thread has just timed out
                calls.append(self._waiting.popleft())
        try:
            db = self._open()
            db.execute("BEGIN IMMEDIATE")
            try:
                answers = [[_answer(db, work) for work in call.works] for call in calls]
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
        except (sqlite3.Error, OSError, LedgerUnavailable) as error:
            why = error.args[0] if isinstance(error, LedgerUnavailable) else f"{self._path}: {error}"
            for call in calls:
                call.answers = LedgerUnavailable(why)
        else:
            for call, found in zip(calls, answers, strict=True):
                call.answers = found

    def _open(self) -> sqlite3.Connection:
        """Return the open connection; raises LedgerUnavailable if the file is not the expected ledger."""
        if self._connection is not None:
            # SQLite would write to a deleted or replaced file without an error.
            if self._path.stat().st_ino != self._inode:
                raise LedgerUnavailable(f"{self._path}: replaced by another file while in use")
            return self._connection
        where, wait = f"{self._path.absolute().as_uri()}?mode=rw", self._patience
        db = sqlite3.connect(where, uri=True, timeout=wait, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                raise LedgerUnavailable(messages.LEDGER_EMPTY(ledger=self._path))
            if version != _VERSION:
                raise LedgerUnavailable(messages.LEDGER_SCHEMA(ledger=self._path, found=version, own=_VERSION))
        except BaseException:
            db.close()
            raise
        self._connection, self._inode = db, self._path.stat().st_ino
        return db


def _answer(db: sqlite3.Connection, work: Work[T]) -> T | Exception:
    """Return a function's result or, after a rollback, its error."""
    db.execute("SAVEPOINT job")
    answer: T | Exception
    try:
        answer = work(db)
    except sqlite3.OperationalError:
        raise  # let the whole transaction fail
    except Exception as error:
        db.execute("ROLLBACK TO job")
        answer = error
    db.execute("RELEASE job")
    return answer
