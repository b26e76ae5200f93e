"""Group commit: calls that wait for the database anyway share the next transaction, and one sync serves them all.

The thread that gets the lock does the work of all that wait for it; the others find theirs done when they get the lock.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, cast

from serving.ledger.contract import LedgerUnavailable

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


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
