"""The embedded ledger: one SQLite file, shared by any number of threads and processes of one machine.

A call takes SQLite's write lock before it reads, so nobody can spend between the check and the reservation. WAL with
synchronous=FULL: an answer is on disk before it is given.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from collections.abc import Iterable
from pathlib import Path

from serving.ledger import money, schema
from serving.ledger.commit import GroupCommit
from serving.ledger.contract import Account, Balance, LedgerUnavailable, Settlement, UnknownReservation

_ON_HELD_ACCOUNTS = "WHERE id IN (SELECT account FROM hold WHERE reservation = ?)"


class SqliteLedger:
    """See `serving.ledger.contract.Ledger`.

    Args:
        path: The file. Only `define` creates it: a ledger that has vanished means no spend, not a fresh budget.
        patience: Seconds to wait for other threads, and for other processes, before giving up with LedgerUnavailable.
    """

    def __init__(self, path: str | Path, patience: float = 5.0) -> None:
        self.path = Path(path)
        self._patience = patience
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._commit = GroupCommit(self._open, str(path), patience)

    def define(self, accounts: Iterable[Account]) -> None:
        """See `Ledger.define`."""
        rows = [(a.arm, a.campaign, a.channel, money.limit(a.limit)) for a in accounts]

        def work(db: sqlite3.Connection) -> None:
            db.execute("UPDATE account SET active = 0")
            db.executemany(
                "INSERT INTO account (arm, campaign, channel, cap) VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET cap = excluded.cap, active = 1",
                rows,
            )

        if self._connection is None and not self.path.exists():
            _create(self.path)
        self._commit.run(work)

    def reserve(self, reservation_id: str, arm: str, campaign: str, channel: str, amount: float) -> bool:
        """See `Ledger.reserve`."""
        wanted = money.reservation(amount)

        def work(db: sqlite3.Connection) -> bool:
            known = db.execute("SELECT state FROM reservation WHERE id = ?", (reservation_id,)).fetchone()
            if known:
                return bool(known[0] != "cancelled")
            accounts = db.execute(
                "SELECT id, cap - spent - reserved FROM account "
                "WHERE active AND arm = ? AND campaign IN (?, '*') AND channel IN (?, '*')",
                (arm, campaign, channel),
            ).fetchall()
            if not accounts or min(room for _, room in accounts) < wanted:
                return False
            db.execute("INSERT INTO reservation (id, amount, state) VALUES (?, ?, 'open')", (reservation_id, wanted))
            db.executemany("INSERT INTO hold VALUES (?, ?)", [(reservation_id, account) for account, _ in accounts])
            db.execute(f"UPDATE account SET reserved = reserved + ? {_ON_HELD_ACCOUNTS}", (wanted, reservation_id))
            return True

        return self._commit.run(work)

    def settle(self, reservation_id: str, actual: float) -> Settlement:
        """See `Ledger.settle`.

        A cost that is reported after the reservation was cancelled was spent all the same: it becomes excess.
        """
        cost = money.cost(actual)

        def work(db: sqlite3.Connection) -> Settlement:
            known = db.execute(
                "SELECT amount, state, charged, excess FROM reservation WHERE id = ?", (reservation_id,)
            ).fetchone()
            if known is None:
                raise UnknownReservation(reservation_id)
            amount, state, charged, excess = known
            if state != "settled":
                held = amount if state == "open" else 0
                charged, excess = min(cost, held), max(0, cost - held)
                db.execute(
                    "UPDATE reservation SET state = 'settled', charged = ?, excess = ? WHERE id = ?",
                    (charged, excess, reservation_id),
                )
                db.execute(
                    "UPDATE account SET reserved = reserved - ?, spent = spent + ?, excess = excess + ? "
                    + _ON_HELD_ACCOUNTS,
                    (held, charged, excess, reservation_id),
                )
            return Settlement(money.units(charged), money.units(excess))

        return self._commit.run(work)

    def cancel(self, reservation_id: str) -> None:
        """See `Ledger.cancel`."""

        def work(db: sqlite3.Connection) -> None:
            known = db.execute("SELECT amount, state FROM reservation WHERE id = ?", (reservation_id,)).fetchone()
            if known is None:
                db.execute("INSERT INTO reservation (id, amount, state) VALUES (?, 0, 'cancelled')", (reservation_id,))
            elif known[1] == "open":
                db.execute("UPDATE reservation SET state = 'cancelled' WHERE id = ?", (reservation_id,))
                db.execute(
                    f"UPDATE account SET reserved = reserved - ? {_ON_HELD_ACCOUNTS}", (known[0], reservation_id)
                )

        self._commit.run(work)

    def balances(self) -> list[Balance]:
        """See `Ledger.balances`."""
        columns = "arm, campaign, channel, cap, spent, reserved, excess"
        rows = self._commit.run(
            lambda db: db.execute(f"SELECT {columns} FROM account WHERE active ORDER BY id").fetchall()
        )
        return [Balance(*row[:3], *(money.units(nano) for nano in row[3:])) for row in rows]

    def open_reservations(self) -> list[str]:
        """See `Ledger.open_reservations`."""
        rows = self._commit.run(lambda db: db.execute("SELECT id FROM reservation WHERE state = 'open'").fetchall())
        return [row[0] for row in rows]

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._commit.lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            # SQLite would go on writing to a file that was deleted or replaced, for nobody to see.
            if self.path.stat().st_ino != self._inode:
                raise LedgerUnavailable("replaced by another file while in use")
            return self._connection
        db = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=self._patience,
            isolation_level=None,
            check_same_thread=False,  # GroupCommit lets one thread in at a time
        )
        try:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version != schema.VERSION:
                raise LedgerUnavailable(f"not a ledger of this version (found {version}, need {schema.VERSION})")
        except BaseException:
            db.close()
            raise
        self._connection, self._inode = db, self.path.stat().st_ino
        return db


def _create(path: Path) -> None:
    """Put a new file in place, complete: processes that start together must not meet in a half-made one."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")  # stays with the file
            db.executescript(schema.CREATE)
        with contextlib.suppress(FileExistsError):  # another process was first; its file is as good
            os.link(draft, path)
    except (sqlite3.Error, OSError) as error:
        raise LedgerUnavailable(f"{path}: {error}") from error
    finally:
        draft.unlink(missing_ok=True)
