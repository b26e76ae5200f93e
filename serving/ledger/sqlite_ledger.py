"""The embedded ledger: one SQLite file, shared by any number of threads and processes of one machine.

A call takes SQLite's write lock before it reads, so nobody can spend between the check and the reservation. WAL with
synchronous=FULL: an answer is on disk before it is given.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from typing_extensions import override

from serving.ledger import money
from serving.ledger.contract import (
    RETENTION_SECONDS,
    SETTLED_SECONDS,
    Account,
    AlreadyReserved,
    Balance,
    Ledger,
    Settlement,
    UnknownReservation,
    Wanted,
    checked_ttl,
    period_start,
)
from serving.ledger.sqlite_database import GroupCommit, LedgerFile, Work

_HELD = "(SELECT book FROM hold WHERE reservation = ?)"
_PRESENT_BOOK = (
    "LEFT JOIN book b ON b.account = a.id AND b.start = CASE a.period WHEN 'hour' THEN ? WHEN 'day' THEN ? ELSE 0 END"
)
_BATCH = 500  # reservations that `expire` takes in one transaction: decisions get in between


class SqliteLedger(Ledger):
    """A ledger in a file; what its methods promise stands in `Ledger`.

    Args:
        path: The file. Only `define` creates it: a ledger that has vanished means no spend, not a fresh budget.
        patience: Seconds to wait for other threads, and for other processes, before giving up with LedgerUnavailable.
        clock: Gives the time in seconds since 1970.
    """

    shared = False

    def __init__(self, path: str | Path, patience: float = 5.0, clock: Callable[[], float] = time.time) -> None:
        self.path = Path(path)
        self._clock = clock
        self._file = LedgerFile(self.path, patience)
        self._commit = GroupCommit(self._file.open, str(path), patience)

    @override
    def define(self, accounts: Iterable[Account]) -> None:
        rows = [(a.arm, a.campaign, a.channel, a.period, money.limit(a.limit)) for a in accounts]

        def work(db: sqlite3.Connection) -> None:
            db.execute("UPDATE account SET active = 0")
            db.executemany(
                "INSERT INTO account (arm, campaign, channel, period, cap) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET cap = excluded.cap, active = 1",
                rows,
            )

        self._file.create_if_new()
        self._commit.run(work)

    @override
    def reserve(
        self, reservation_id: str, arm: str, campaign: str, channel: str, amount: float, request: str | None = None
    ) -> bool:
        return self._commit.run(self._reservation(Wanted(reservation_id, arm, campaign, channel, amount, request)))

    @override
    def reserve_all(self, wanted: Sequence[Wanted]) -> list[bool | Exception]:
        return self._commit.run_each([self._reservation(reservation) for reservation in wanted])

    def _reservation(self, asked: Wanted) -> Work[bool]:
        reservation_id, request = asked.reservation_id, asked.request

        def work(db: sqlite3.Connection) -> bool:
            wanted, scope = money.reservation(asked.amount), json.dumps([asked.arm, asked.campaign, asked.channel])
            known = db.execute(
                "SELECT state IN ('open', 'settled') AND amount = ? AND scope = ? FROM reservation WHERE id = ?",
                (wanted, scope, reservation_id),
            ).fetchone()
            if known:
                return bool(known[0])
            other = db.execute(
                "SELECT 1 FROM request q JOIN reservation r ON r.id = q.reservation "
                "WHERE q.name = ? AND r.state IN ('open', 'settled', 'late')",
                (request,),
            ).fetchone()
            if other:
                raise AlreadyReserved(f"{self.path}: another reservation pays for this request")
            now = self._clock()
            accounts = db.execute(
                f"SELECT a.id, a.period, b.id, a.cap - ifnull(b.spent + b.reserved, 0) FROM account a {_PRESENT_BOOK} "
                "WHERE a.active AND a.arm = ? AND a.campaign IN (?, '*') AND a.channel IN (?, '*')",
                (period_start("hour", now), period_start("day", now), asked.arm, asked.campaign, asked.channel),
            ).fetchall()
            if not accounts or min(room for *_, room in accounts) < wanted:
                return False
            db.execute(
                "INSERT INTO reservation (id, scope, amount, state, created) VALUES (?, ?, ?, 'open', ?)",
                (reservation_id, scope, wanted, now),
            )
            if request is not None:
                db.execute("INSERT OR REPLACE INTO request VALUES (?, ?)", (request, reservation_id))
            for account, period, book, _ in accounts:
                if book is None:
                    row = (account, period_start(period, now))
                    book = db.execute("INSERT INTO book (account, start) VALUES (?, ?)", row).lastrowid
                db.execute("INSERT INTO hold VALUES (?, ?)", (reservation_id, book))
            db.execute(f"UPDATE book SET reserved = reserved + ? WHERE id IN {_HELD}", (wanted, reservation_id))
            return True

        return work

    @override
    def settle(self, reservation_id: str, actual: float) -> Settlement:
        cost = money.cost(actual)

        def work(db: sqlite3.Connection) -> Settlement:
            known = db.execute(
                "SELECT amount, state, charged, excess FROM reservation WHERE id = ?", (reservation_id,)
            ).fetchone()
            if known is None:
                raise UnknownReservation(reservation_id)
            amount, state, charged, excess = known
            if state not in ("settled", "late"):
                charged = 0 if state == "cancelled" else min(cost, amount)
                if state == "expired":
                    charged = min(charged, _room(db, reservation_id))
                excess = cost - charged
                db.execute(
                    "UPDATE reservation SET state = ?, finished = ?, charged = ?, excess = ? WHERE id = ?",
                    ("settled" if state == "open" else "late", self._clock(), charged, excess, reservation_id),
                )
                db.execute(
                    "UPDATE book SET reserved = reserved - ?, spent = spent + ?, excess = excess + ? "
                    f"WHERE id IN {_HELD}",
                    (amount if state == "open" else 0, charged, excess, reservation_id),
                )
            return Settlement(money.units(charged), money.units(excess))

        return self._commit.run(work)

    @override
    def cancel(self, reservation_id: str) -> None:

        def work(db: sqlite3.Connection) -> None:
            now = self._clock()
            if not _give_back(db, reservation_id, "cancelled", now):
                db.execute(
                    "INSERT OR IGNORE INTO reservation (id, amount, state, created, finished) "
                    "VALUES (?, 0, 'cancelled', ?, ?)",
                    (reservation_id, now, now),
                )

        self._commit.run(work)

    @override
    def expire(self, ttl: float) -> int:
        checked_ttl(ttl)

        def expire_some(db: sqlite3.Connection) -> int:
            now = self._clock()
            overdue = db.execute(
                "SELECT id FROM reservation WHERE state = 'open' AND created <= ? LIMIT ?", (now - ttl, _BATCH)
            ).fetchall()
            return sum(_give_back(db, name, "expired", now) for (name,) in overdue)

        def forget_some(db: sqlite3.Connection) -> int:
            now = self._clock()
            rows = db.execute(
                "SELECT id FROM reservation WHERE state IN ('settled', 'late') AND finished < ? UNION ALL "
                "SELECT id FROM reservation WHERE state IN ('cancelled', 'expired') AND finished < ? LIMIT ?",
                (now - SETTLED_SECONDS, now - RETENTION_SECONDS, _BATCH),
            ).fetchall()
            db.executemany("DELETE FROM hold WHERE reservation = ?", rows)
            db.executemany("DELETE FROM request WHERE reservation = ?", rows)
            db.executemany("DELETE FROM reservation WHERE id = ?", rows)
            return len(rows)

        expired = self._in_batches(expire_some)
        self._in_batches(forget_some)
        return expired

    @override
    def balances(self) -> list[Balance]:
        now = self._clock()

        def work(db: sqlite3.Connection) -> list[tuple]:
            return db.execute(
                "SELECT a.arm, a.campaign, a.channel, a.period, a.cap, "
                "ifnull(b.spent, 0), ifnull(b.reserved, 0), ifnull(b.excess, 0) "
                f"FROM account a {_PRESENT_BOOK} WHERE a.active ORDER BY a.id",
                (period_start("hour", now), period_start("day", now)),
            ).fetchall()

        rows = self._commit.run(work)
        balances = []
        for arm, campaign, channel, period, *amounts in rows:
            limit, spent, reserved, excess = map(money.units, amounts)
            start = period_start(period, now)
            balances.append(Balance(arm, campaign, channel, limit, spent, reserved, excess, period, start))
        return balances

    @override
    def memory(self) -> tuple[int, str]:
        row = self._commit.run(lambda db: db.execute("SELECT version, text FROM memory").fetchone())
        return row or (0, "")

    @override
    def remember(self, version: int, text: str) -> bool:

        def work(db: sqlite3.Connection) -> bool:
            (seen,) = db.execute("SELECT ifnull(max(version), 0) FROM memory").fetchone()
            if seen != version:
                return False
            db.execute("DELETE FROM memory")
            db.execute("INSERT INTO memory VALUES (?, ?)", (version + 1, text))
            return True

        return self._commit.run(work)

    @override
    def open_reservations(self) -> list[str]:
        rows = self._commit.run(lambda db: db.execute("SELECT id FROM reservation WHERE state = 'open'").fetchall())
        return [row[0] for row in rows]

    @override
    def close(self) -> None:
        with self._commit.lock:
            self._file.close()

    def _in_batches(self, work: Callable[[sqlite3.Connection], int]) -> int:
        total = 0
        while (done := self._commit.run(work)) == _BATCH:
            total += done
        return total + done


def _give_back(db: sqlite3.Connection, reservation_id: str, state: str, now: float) -> bool:
    """End an open reservation without a cost; False if it is not open."""
    row = db.execute("SELECT amount FROM reservation WHERE id = ? AND state = 'open'", (reservation_id,)).fetchone()
    if row is None:
        return False
    db.execute("UPDATE reservation SET state = ?, finished = ? WHERE id = ?", (state, now, reservation_id))
    db.execute(f"UPDATE book SET reserved = reserved - ? WHERE id IN {_HELD}", (row[0], reservation_id))
    return True


def _room(db: sqlite3.Connection, reservation_id: str) -> int:
    """What all books of a reservation have left."""
    (room,) = db.execute(
        "SELECT min(a.cap - b.spent - b.reserved) FROM book b JOIN account a ON a.id = b.account "
        f"WHERE b.id IN {_HELD}",
        (reservation_id,),
    ).fetchone()
    return max(0, room or 0)
