"""The database of the embedded ledger: its tables, its file, and transactions that many calls share.

Calls that wait for the database anyway share the next transaction, and one sync serves them all (group commit): the
thread that gets the lock does the work of all that wait for it, and the others find theirs done when they get the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar, cast

from serving.ledger.contract import LedgerInUse, LedgerUnavailable

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

VERSION = 3  # of the tables; stands in the file
MOVED = -VERSION  # stands there after `move_to_redis`: nobody spends from this file any more
MOVING = -100 - VERSION  # likewise, in the last steps of a move; only the move itself goes on from here
_BEFORE = 2  # the version that is brought up to date when it is opened

_HARD_CAP = """
-- The code checks before it reserves. This holds the cap even if that code has a fault.
CREATE TRIGGER hard_cap BEFORE UPDATE OF spent, reserved ON book
WHEN NEW.spent + NEW.reserved > NEW.cap AND NEW.spent + NEW.reserved > OLD.spent + OLD.reserved
BEGIN
    SELECT RAISE(ABORT, 'spent + reserved would exceed the limit');
END;
"""

_NEW = """
-- Costs that were reported; '*' stands for any.
CREATE TABLE cost (
    reservation TEXT NOT NULL REFERENCES reservation (id),
    event TEXT NOT NULL,
    PRIMARY KEY (reservation, event)
) WITHOUT ROWID;

-- One row: a name of this ledger that no other has, and where it was moved to.
CREATE TABLE identity (name TEXT NOT NULL, moved_to TEXT);
"""

_TABLES = f"""
-- Amounts are nano-units (`money.py`), times seconds since 1970.
CREATE TABLE account (
    id INTEGER PRIMARY KEY,
    arm TEXT NOT NULL,
    campaign TEXT NOT NULL,
    channel TEXT NOT NULL,
    period TEXT NOT NULL CHECK (period IN ('total', 'day', 'hour')),
    cap INTEGER NOT NULL CHECK (cap >= 0),  -- of a period that begins
    active INTEGER NOT NULL DEFAULT 1,
    timezone TEXT NOT NULL DEFAULT 'UTC',
    parts TEXT NOT NULL DEFAULT '',  -- how its budget is divided
    start INTEGER NOT NULL DEFAULT 0,  -- of the present period
    until INTEGER NOT NULL DEFAULT 0,
    UNIQUE (arm, campaign, channel, period)
);

-- What an account's period has seen. Books are kept: one row for each account and period, whatever the traffic.
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
{_HARD_CAP}
-- 'late': a cost came after the reservation was cancelled or had expired.
CREATE TABLE reservation (
    id TEXT PRIMARY KEY,
    scope TEXT,  -- JSON of arm, campaign and channel; null: it was cancelled before it was reserved
    amount INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'settled', 'cancelled', 'expired', 'late')),
    created REAL NOT NULL,
    finished REAL,
    charged INTEGER NOT NULL DEFAULT 0,
    excess INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX open_reservation ON reservation (created) WHERE state = 'open';
CREATE INDEX settled_reservation ON reservation (finished) WHERE state IN ('settled', 'late');
CREATE INDEX unpaid_reservation ON reservation (finished) WHERE state IN ('cancelled', 'expired');

-- The books that a reservation draws on; they are settled even if the experiment no longer names the accounts.
CREATE TABLE hold (
    reservation TEXT NOT NULL REFERENCES reservation (id),
    book INTEGER NOT NULL REFERENCES book (id),
    PRIMARY KEY (reservation, book)
) WITHOUT ROWID;

-- The last reservation for a request: a request that comes again, on whichever router, is not paid for twice.
CREATE TABLE request (name TEXT PRIMARY KEY, reservation TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX requested ON request (reservation);

-- What the pacing controller remembers between two updates: one row at most.
CREATE TABLE memory (version INTEGER NOT NULL, text TEXT NOT NULL);
{_NEW}
INSERT INTO identity (name) VALUES (lower(hex(randomblob(16))));
PRAGMA user_version = {VERSION};
"""

# From version 2, whose accounts each bound one arm, in UTC: what the arms have spent is what the experiment has. Of a
# reservation that is settled there, it is not known which event has told its cost.
_BRING_UP_TO_DATE = f"""
DROP TRIGGER hard_cap;
ALTER TABLE account ADD COLUMN timezone TEXT NOT NULL DEFAULT 'UTC';
ALTER TABLE account ADD COLUMN parts TEXT NOT NULL DEFAULT '';
ALTER TABLE account ADD COLUMN start INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN until INTEGER NOT NULL DEFAULT 0;
ALTER TABLE book ADD COLUMN cap INTEGER NOT NULL DEFAULT 0 CHECK (cap >= 0);
UPDATE book SET cap = (SELECT cap FROM account WHERE id = book.account);
INSERT INTO account (arm, campaign, channel, period, cap, active)
    SELECT '*', campaign, channel, period, 0, 0 FROM account GROUP BY campaign, channel, period;
CREATE TEMPORARY VIEW part AS
    SELECT book.*, whole.id AS whole FROM book JOIN account arm ON arm.id = book.account
    JOIN account whole USING (campaign, channel, period) WHERE whole.arm = '*' AND arm.arm != '*';
INSERT INTO book (account, start, spent, reserved, excess)
    SELECT whole, start, sum(spent), sum(reserved), sum(excess) FROM part GROUP BY whole, start;
INSERT OR IGNORE INTO hold
    SELECT hold.reservation, book.id FROM hold JOIN part ON part.id = hold.book
    JOIN book ON book.account = part.whole AND book.start = part.start;
DROP VIEW part;
{_HARD_CAP}
{_NEW}
INSERT INTO cost SELECT id, '*' FROM reservation WHERE state IN ('settled', 'late');
CREATE TABLE IF NOT EXISTS moved (generation TEXT NOT NULL, target TEXT);
INSERT INTO moved SELECT lower(hex(randomblob(16))), NULL WHERE NOT EXISTS (SELECT 1 FROM moved);
INSERT INTO identity SELECT generation, target FROM moved;
DROP TABLE moved;
"""


def bring_up_to_date(db: sqlite3.Connection) -> int:
    """Bring the tables to this version, inside the caller's transaction; returns what `user_version` says then."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version in (_BEFORE, -_BEFORE, -100 - _BEFORE):
        for statement in _statements(_BRING_UP_TO_DATE):
            db.execute(statement)
        version += VERSION - _BEFORE if version > 0 else _BEFORE - VERSION
        db.execute(f"PRAGMA user_version = {version}")
    return int(version)


def _statements(script: str) -> Iterator[str]:
    """Of a script, one after another: `executescript` would end the transaction first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


class LedgerFile:
    """One connection to the file. The caller makes sure that one thread at a time uses it.

    Args:
        path: The file.
        patience: Seconds to wait for other processes.
    """

    def __init__(self, path: Path, patience: float) -> None:
        self._path = path
        self._patience = patience
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._lock: int | None = None

    def claim(self) -> None:
        """Lock the file against other routers until `close`.

        Raises:
            LedgerInUse: another one has it.
            LedgerUnavailable: its folder can't be used.
        """
        if self._lock is not None:
            return
        try:
            lock = os.open(self._path.with_name(f".{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o640)
        except OSError as error:
            raise LedgerUnavailable(f"{self._path}: {error}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise LedgerInUse(
                f"{self._path}: another router spends from this ledger: stop it, give this one a file of its own, or "
                "move the ledger to a Redis that both share (mtorl ledger move)"
            ) from error
        self._lock = lock

    def create_if_new(self) -> None:
        """Create the file if there is none. It appears complete, for several processes may start at once."""
        if self._connection is not None or self._path.exists():
            return
        unfinished = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}")
        try:
            with contextlib.closing(sqlite3.connect(unfinished, isolation_level=None)) as db:
                db.execute("PRAGMA journal_mode = WAL")  # stays with the file
                db.executescript(_TABLES)
            with contextlib.suppress(FileExistsError):  # another process was first; its file is as good
                os.link(unfinished, self._path)
        except (sqlite3.Error, OSError) as error:
            raise LedgerUnavailable(f"{self._path}: {error}") from error
        finally:
            unfinished.unlink(missing_ok=True)

    def open(self) -> sqlite3.Connection:
        """The connection; raises LedgerUnavailable if the file is absent, replaced, or no ledger of this version."""
        if self._connection is not None:
            # SQLite would go on writing to a file that was deleted or replaced, and nobody would see what it wrote.
            if self._path.stat().st_ino != self._inode:
                raise LedgerUnavailable("replaced by another file while in use")
            return self._connection
        db = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=self._patience,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("BEGIN IMMEDIATE")
            version = bring_up_to_date(db)
            db.execute("COMMIT")
            if version == 0:
                raise LedgerUnavailable(
                    "holds no ledger (any more): restore it; if it is lost for good, remove the file and say that the "
                    "router goes on without (mtorl ledger agree)"
                )
            if version == MOVED:
                raise LedgerUnavailable("its accounts were moved to Redis, where alone they may be spent from")
            if version == MOVING:
                raise LedgerUnavailable("its move to Redis was stopped: start `mtorl ledger move` again, which ends it")
            if version != VERSION:
                raise LedgerUnavailable(f"not a ledger of this version (found {version}, need {VERSION})")
        except BaseException:
            db.close()
            raise
        self._connection, self._inode = db, self._path.stat().st_ino
        return db

    def close(self) -> None:
        """Close the connection, which `open` opens again, and let others have the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class _Job(Generic[T]):
    def __init__(self, work: Work[T]) -> None:
        self.work = work
        self.done = False
        self.value: T | None = None
        self.error: Exception | None = None


class GroupCommit:
    """Runs functions in transactions that hold SQLite's write lock from the start (BEGIN IMMEDIATE).

    Args:
        connect: Gives the connection, checked, at the start of each transaction.
        name: Of the database, for messages.
        patience: Seconds to wait for other threads.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], name: str, patience: float) -> None:
        self._connect = connect
        self._name = name
        self._patience = patience
        self._waiting: deque[_Job] = deque()
        self.lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """How many functions the next transaction will run."""
        return len(self._waiting)

    def run(self, work: Work[T]) -> T:
        """Run a function in a transaction and return what it returns, once that is durable.

        Its exceptions undo its own changes and nobody else's.

        Raises:
            LedgerUnavailable: it is unknown whether the function took effect.
        """
        (result,) = self.run_each([work])
        if isinstance(result, Exception):
            raise result
        return result

    def run_each(self, works: Sequence[Work[T]]) -> list[T | Exception]:
        """`run` for several functions, in one transaction; what it would raise for one of them stands in its place."""
        jobs = [_Job(work) for work in works]
        self._waiting.extend(jobs)
        if not self.lock.acquire(timeout=self._patience):
            for job in jobs:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(job)
            raise LedgerUnavailable(f"{self._name}: busy for {self._patience:g} s")
        try:
            if not all(job.done for job in jobs):
                self._run_all()
        finally:
            self.lock.release()
        return [cast(T, job.value) if job.error is None else job.error for job in jobs]

    def _run_all(self) -> None:
        jobs: list[_Job] = []
        while self._waiting:
            with contextlib.suppress(IndexError):  # its caller lost patience just now
                jobs.append(self._waiting.popleft())
        try:
            db = self._connect()
            db.execute("BEGIN IMMEDIATE")
            try:
                for job in jobs:
                    _run_one(db, job)
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
        except (sqlite3.Error, OSError, LedgerUnavailable) as error:
            for job in jobs:
                job.error = LedgerUnavailable(f"{self._name}: {error}")
        finally:
            for job in jobs:
                job.done = True


def _run_one(db: sqlite3.Connection, job: _Job) -> None:
    db.execute("SAVEPOINT job")
    try:
        job.value = job.work(db)
    except sqlite3.OperationalError:
        raise  # the disk or the file: nobody's transaction can be trusted
    except Exception as error:
        db.execute("ROLLBACK TO job")
        job.error = error
    db.execute("RELEASE job")
