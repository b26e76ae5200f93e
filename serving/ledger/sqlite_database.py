"""The database of the embedded ledger: its file, and transactions that many calls share.

Calls that wait for the database share the next transaction, and one sync serves them all (group commit): the thread
that gets the lock does the work of all that wait for it, and the others find theirs done when they get the lock.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, cast

from mtorl.runtime.locks import acquire
from serving.ledger.contract import LedgerInUse, LedgerUnavailable
from serving.ledger.sqlite_tables import TABLES, VERSION

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


@dataclass(eq=False)
class _Job(Generic[T]):
    work: Work[T]
    answer: T | Exception | None = None
    done: bool = False


class Database:
    """Runs functions in transactions that hold SQLite's write lock from the start (BEGIN IMMEDIATE)."""

    def __init__(self, path: Path, patience: float) -> None:
        self._path = path
        self._patience = patience  # seconds, for other threads and for other processes
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._claim: int | None = None
        self._waiting: deque[_Job] = deque()
        self.lock = threading.Lock()  # of the connection

    def claim(self) -> None:
        """Lock the file until `close`; raises LedgerInUse if another router has it, or LedgerUnavailable."""
        if self._claim is not None:
            return
        try:
            self._claim = acquire(self._path.with_name(f".{self._path.name}.lock"))
        except BlockingIOError as error:
            raise LedgerInUse(
                f"{self._path}: another router spends from this ledger: stop it, or give both a ledger on Redis "
                "(setting `ledger`)"
            ) from error
        except OSError as error:
            raise LedgerUnavailable(f"{self._path}: {error}") from error

    def create_if_new(self) -> None:
        """Create the file if there is none. It appears complete, for several processes may start at once."""
        if self._connection is not None or self._path.exists():
            return
        unfinished = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}")
        try:
            with contextlib.closing(sqlite3.connect(unfinished, isolation_level=None)) as db:
                db.execute("PRAGMA journal_mode = WAL")  # stays with the file
                db.executescript(TABLES)
            with contextlib.suppress(FileExistsError):  # another process was first; its file is as good
                os.link(unfinished, self._path)
        except (sqlite3.Error, OSError) as error:
            raise LedgerUnavailable(f"{self._path}: {error}") from error
        finally:
            unfinished.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the connection, which the next call opens again, and release the file."""
        with self.lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if self._claim is not None:
                os.close(self._claim)
                self._claim = None

    def run(self, work: Work[T]) -> T:
        """Run a function in a transaction; returns its durable result. Its exception undoes its own changes.

        After LedgerUnavailable it is unknown whether the function took effect.
        """
        (answer,) = self.run_each([work])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def run_each(self, works: Sequence[Work[T]]) -> list[T | Exception]:
        """`run` for several functions in one transaction; the error of a function stands in the place of its result."""
        jobs = [_Job(work) for work in works]
        self._waiting.extend(jobs)
        if not self.lock.acquire(timeout=self._patience):
            for job in jobs:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(job)
            raise LedgerUnavailable(f"{self._path}: busy for {self._patience:g} s")
        try:
            if not all(job.done for job in jobs):
                self._run_waiting()
        finally:
            self.lock.release()
        return [cast(T | Exception, job.answer) for job in jobs]

    def _run_waiting(self) -> None:
        jobs: list[_Job] = []
        while self._waiting:
            with contextlib.suppress(IndexError):  # its caller lost patience just now
                jobs.append(self._waiting.popleft())
        try:
            db = self._open()
            db.execute("BEGIN IMMEDIATE")
            try:
                for job in jobs:
                    job.answer = _answer(db, job.work)
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
        except (sqlite3.Error, OSError, LedgerUnavailable) as error:
            for job in jobs:
                job.answer = LedgerUnavailable(f"{self._path}: {error}")
        finally:
            for job in jobs:
                job.done = True

    def _open(self) -> sqlite3.Connection:
        """The connection; raises LedgerUnavailable if the file is absent, replaced, or no ledger of this version."""
        if self._connection is not None:
            # SQLite would go on writing to a file that was deleted or replaced.
            if self._path.stat().st_ino != self._inode:
                raise LedgerUnavailable("replaced by another file while in use")
            return self._connection
        where, wait = f"{self._path.absolute().as_uri()}?mode=rw", self._patience
        db = sqlite3.connect(where, uri=True, timeout=wait, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                raise LedgerUnavailable(
                    "holds no ledger (any more): restore it; if it is lost for good, remove the file and say that the "
                    "router goes on without (mtorl ledger agree)"
                )
            if version != VERSION:
                raise LedgerUnavailable(f"a ledger of version {version}; this router reads {VERSION}")
        except BaseException:
            db.close()
            raise
        self._connection, self._inode = db, self._path.stat().st_ino
        return db


def _answer(db: sqlite3.Connection, work: Work[T]) -> T | Exception:
    """The result of a function, or its error, which undoes its changes."""
    db.execute("SAVEPOINT job")
    answer: T | Exception
    try:
        answer = work(db)
    except sqlite3.OperationalError:
        raise  # the disk or the file: no transaction can be trusted
    except Exception as error:
        db.execute("ROLLBACK TO job")
        answer = error
    db.execute("RELEASE job")
    return answer
