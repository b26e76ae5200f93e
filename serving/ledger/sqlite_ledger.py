"""The embedded ledger: one SQLite file for the threads of one router, which locks it (`claim`).

Other processes may read. A call takes SQLite's write lock before it reads, so nothing is spent between the check and
the reservation. WAL with synchronous=FULL: an answer is on disk before it is given.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence, Set
from functools import cache
from pathlib import Path
from typing import cast

from typing_extensions import override

from mtorl.experiment.arm import ALL_ARMS
from mtorl.policy.periods import Period, period_after
from mtorl.runtime.clock_jumps import ClockJumps
from serving.ledger import money
from serving.ledger.contract import (
    EXPIRE_AT_ONCE,
    RETENTION_SECONDS,
    SETTLED_SECONDS,
    Account,
    AlreadyReserved,
    Balance,
    Cost,
    Ledger,
    LedgerUnavailable,
    Room,
    Settlement,
    UnknownReservation,
    Wanted,
    limit_after_a_change,
    parts,
)
from serving.ledger.known_balances import Changes, KnownBalances
from serving.ledger.sqlite_database import Database, Work
from serving.ledger.sqlite_pacing import SqlitePacing

_HELD = "(SELECT book FROM hold WHERE reservation = ?)"
_PRESENT = "account a LEFT JOIN book b ON b.account = a.id AND b.start = a.start"
_NEW = (0, "", "", 0, 0, 0)  # state of an account that is not known yet
_BATCH = 500  # reservations that `expire` takes in one transaction: decisions get in between


class SqliteLedger(Ledger):
    """A ledger in a file; `Ledger` says what its methods promise.

    Args:
        path: The file. Only `define` creates it: a ledger that has vanished means no spend, not a fresh budget.
        patience: Seconds to wait for other threads and processes before giving up with LedgerUnavailable.
    """

    shared = False

    def __init__(self, path: str | Path, patience: float = 5.0, clock: Callable[[], float] | None = None) -> None:
        self.path = Path(path)
        self._clock = clock or time.time
        self._jumps = ClockJumps(clock or time.monotonic)
        self._database = Database(self.path, patience)
        self.pacing = SqlitePacing(self._database)
        self._known = KnownBalances()

    @override
    def identity(self) -> str | None:
        if not self.path.exists():
            return None
        (name,) = self._database.run(lambda db: db.execute("SELECT name FROM identity").fetchone())
        return str(name)

    @override
    def claim(self) -> None:
        self._database.claim()

    @override
    def define(self, accounts: Iterable[Account]) -> None:
        limits = {account: money.limit(account.limit) for account in accounts}
        divided = parts(limits)
        wanted = {(a.arm, *a.budget): (limit, a.timezone, divided[a.budget]) for a, limit in limits.items()}
        self._jumps.look(self._clock())

        def work(db: sqlite3.Connection) -> None:
            columns = "arm, campaign, channel, period, cap, timezone, parts, start, until, active"
            known = {row[:4]: row[4:] for row in db.execute(f"SELECT {columns} FROM account")}
            after = _calendar(self._clock())
            present = {of: after(of[3], terms[1], *known.get(of, _NEW)[3:5]) for of, terms in wanted.items()}
            rows = []
            for of, terms in wanted.items():  # the parts of a budget keep one calendar
                state = (*terms, *present.get((ALL_ARMS, *of[1:]), present[of]), 1)
                if known.get(of) != state:
                    rows.append((*of, *state))
            db.executemany(
                f"INSERT INTO account ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "(cap, timezone, parts, start, until, active) = (excluded.cap, excluded.timezone, excluded.parts, "
                "excluded.start, excluded.until, 1)",
                rows,
            )
            gone = [of for of, state in known.items() if state[-1] and of not in wanted]
            db.executemany("UPDATE account SET active = 0 WHERE (arm, campaign, channel, period) = (?, ?, ?, ?)", gone)
            _count_change(db, {row[1] for row in (*rows, *gone)})
            before = {(*of[1:], state[2]) for of, state in known.items() if state[-1]}
            _limit_anew(db, {of[1:] for of, terms in wanted.items() if (*of[1:], terms[2]) not in before})

        self._database.create_if_new()
        self._database.run(work)

    @override
    def reserve_all(self, wanted: Sequence[Wanted]) -> list[bool | Exception]:
        return self._database.run_each([self._reservation(reservation) for reservation in wanted])

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
            _begin_periods(db, now)
            accounts = db.execute(
                "SELECT a.arm, a.id, a.start, a.cap, b.id, ifnull(b.cap - b.spent - b.reserved, a.cap) "
                f"FROM {_PRESENT} "
                "WHERE a.active AND a.arm IN (?, '*') AND a.campaign IN (?, '*') AND a.channel IN (?, '*')",
                (asked.arm, asked.campaign, asked.channel),
            ).fetchall()
            if not any(arm == asked.arm for arm, *_ in accounts) or max(0, min(room for *_, room in accounts)) < wanted:
                return False
            db.execute(
                "INSERT INTO reservation (id, scope, amount, state, created) VALUES (?, ?, ?, 'open', ?)",
                (reservation_id, scope, wanted, now),
            )
            if request is not None:
                db.execute("INSERT OR REPLACE INTO request VALUES (?, ?)", (request, reservation_id))
            for _, account, start, cap, book, _ in accounts:
                if book is None:
                    row = (account, start, cap)
                    book = db.execute("INSERT INTO book (account, start, cap) VALUES (?, ?, ?)", row).lastrowid
                db.execute("INSERT INTO hold VALUES (?, ?)", (reservation_id, book))
            db.execute(f"UPDATE book SET reserved = reserved + ? WHERE id IN {_HELD}", (wanted, reservation_id))
            return True

        return work

    @override
    def settle_all(self, costs: Sequence[Cost]) -> list[Settlement | UnknownReservation]:
        found = self._database.run_each([self._settlement(*cost) for cost in costs])
        for settled in found:
            if isinstance(settled, Exception) and not isinstance(settled, UnknownReservation):
                raise settled
        return cast(list[Settlement | UnknownReservation], found)

    def _settlement(self, reservation_id: str, actual: float, event: str) -> Work[Settlement]:
        cost = money.cost(actual)

        def work(db: sqlite3.Connection) -> Settlement:
            known = db.execute(
                "SELECT amount, state, charged, excess FROM reservation WHERE id = ?", (reservation_id,)
            ).fetchone()
            if known is None:
                raise UnknownReservation(reservation_id)
            amount, state, charged, excess = known
            told = db.execute("SELECT 1 FROM cost WHERE reservation = ? AND event = ?", (reservation_id, event))
            if not told.fetchone():
                if state == "cancelled":
                    amount = 0  # nothing is set aside for it any more
                more, freed = min(cost, amount - charged), amount
                if state != "open":
                    left = f"SELECT min(cap - spent - reserved) FROM book WHERE id IN {_HELD}"
                    (room,) = db.execute(left, (reservation_id,)).fetchone()
                    more, freed = min(more, max(0, room or 0)), 0
                charged, excess = charged + more, min(excess + cost - more, money.MOST)
                state = "settled" if state in ("open", "settled") else "late"
                db.execute(
                    "UPDATE reservation SET amount = ?, state = ?, finished = ?, charged = ?, excess = ? WHERE id = ?",
                    (amount, state, self._clock(), charged, excess, reservation_id),
                )
                db.execute("INSERT INTO cost VALUES (?, ?)", (reservation_id, event))
                db.execute(
                    "UPDATE book SET reserved = reserved - ?, spent = spent + ?, "
                    f"excess = min(excess + ?, {money.MOST}) "
                    f"WHERE id IN {_HELD}",
                    (freed, more, cost - more, reservation_id),
                )
            return Settlement(money.units(charged), money.units(excess))

        return work

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

        self._database.run(work)

    @override
    def expire(self, ttl: float, most: int = EXPIRE_AT_ONCE) -> int:
        now = self._clock()
        ages = (ttl, SETTLED_SECONDS, RETENTION_SECONDS)
        overdue, settled, finished = (self._jumps.before(now, age) for age in ages)

        def expire_some(db: sqlite3.Connection, count: int) -> int:
            names = db.execute(
                "SELECT id FROM reservation WHERE state = 'open' AND created <= ? LIMIT ?", (overdue, count)
            ).fetchall()
            return sum(_give_back(db, name, "expired", now) for (name,) in names)

        def forget_some(db: sqlite3.Connection, count: int) -> int:
            rows = db.execute(
                "SELECT id FROM reservation WHERE state IN ('settled', 'late') AND finished < ? UNION ALL "
                "SELECT id FROM reservation WHERE state IN ('cancelled', 'expired') AND finished < ? LIMIT ?",
                (settled, finished, count),
            ).fetchall()
            for table in ("hold", "request", "cost"):
                db.executemany(f"DELETE FROM {table} WHERE reservation = ?", rows)
            db.executemany("DELETE FROM reservation WHERE id = ?", rows)
            return len(rows)

        expired = self._in_batches(expire_some, most)
        self._in_batches(forget_some, most)
        return expired

    @override
    def balances(self) -> list[Balance]:
        return self._known.read(self._changes)

    def _changes(self, seen: int) -> Changes:

        def work(db: sqlite3.Connection) -> Changes:
            _begin_periods(db, self._clock())
            (last,) = db.execute("SELECT ifnull(max(number), 0) FROM change").fetchone()
            since = seen if seen <= last else 0  # this may be an older copy, which was restored
            campaigns = db.execute("SELECT campaign FROM change WHERE number > ? ORDER BY number", (since,)).fetchall()
            found: dict[str, list[Balance]] = {campaign: [] for (campaign,) in campaigns}
            rows = db.execute(
                "SELECT a.arm, a.campaign, a.channel, a.period, a.start, ifnull(b.cap, a.cap), "
                f"ifnull(b.spent, 0), ifnull(b.reserved, 0), ifnull(b.excess, 0) FROM {_PRESENT} "
                "JOIN change USING (campaign) WHERE a.active AND number > ? ORDER BY a.id",
                (since,),
            )
            for arm, campaign, channel, period, start, *amounts in rows:
                limit, spent, reserved, excess = map(money.units, amounts)
                found[campaign].append(Balance(arm, campaign, channel, limit, spent, reserved, excess, period, start))
            return last, found

        return self._database.run(work)

    @override
    def now(self) -> float:
        return self._clock()

    @override
    def open_reservations(self) -> list[str]:
        rows = self._database.run(lambda db: db.execute("SELECT id FROM reservation WHERE state = 'open'").fetchall())
        return [row[0] for row in rows]

    @override
    def room(self) -> Room:
        """Of its disk. It must not wait for the file, which may be busy."""
        try:
            disk, device = os.statvfs(self.path.parent), self.path.parent.stat().st_dev
        except OSError as error:
            raise LedgerUnavailable(f"{self.path}: {error}") from error
        return Room("file", disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize, device)

    @override
    def close(self) -> None:
        self._database.close()
        self._known = KnownBalances()

    def __str__(self) -> str:
        return str(self.path)

    def _in_batches(self, work: Callable[[sqlite3.Connection, int], int], most: int) -> int:
        total = 0
        while count := min(_BATCH, most - total):
            done = self._database.run(lambda db, count=count: work(db, count))  # type: ignore[misc]
            total += done
            if done < count:
                break
        return total


def _begin_periods(db: sqlite3.Connection, now: float) -> None:
    """Begin the periods that are due. The parts of a budget keep one calendar."""
    due = db.execute(
        "SELECT arm, campaign, channel, period, id, timezone, start, until FROM account WHERE active AND until <= ?",
        (now,),
    ).fetchall()
    after = _calendar(now)
    wholes = {row[1:4]: after(row[3], *row[5:]) for row in due if row[0] == ALL_ARMS}
    rows = [(*wholes.get(row[1:4], after(row[3], *row[5:])), row[4]) for row in due]
    db.executemany("UPDATE account SET start = ?, until = ? WHERE id = ?", rows)
    _count_change(db, {row[1] for row in due})


def _count_change(db: sqlite3.Connection, campaigns: Set[str]) -> None:
    """Number a change in the accounts of these campaigns; triggers number those of books."""
    (number,) = db.execute("SELECT ifnull(max(number), 0) + 1 FROM change").fetchone()
    rows = [(campaign, number) for campaign in campaigns]
    db.executemany("INSERT INTO change VALUES (?, ?) ON CONFLICT DO UPDATE SET number = excluded.number", rows)


def _limit_anew(db: sqlite3.Connection, budgets: Set[tuple[str, ...]]) -> None:
    """Set the limits of the present period, since the parts of these budgets have changed."""
    if not budgets:
        return
    rows = db.execute(
        "SELECT a.campaign, a.channel, a.period, a.arm, a.id, a.start, a.cap, b.cap, ifnull(b.spent, 0), "
        f"ifnull(b.reserved, 0) FROM {_PRESENT} WHERE a.active"
    ).fetchall()
    wholes = {row[:3]: (row[6], row[8]) for row in rows if row[3] == ALL_ARMS}
    limits = []
    for campaign, channel, period, arm, account, start, cap, booked, spent, reserved in rows:
        if (budget := (campaign, channel, period)) in budgets:
            whole = None if arm == ALL_ARMS else wholes.get(budget)
            limit = cap if whole is None else limit_after_a_change(cap, spent, reserved, *whole)
            if limit != (cap if booked is None else booked):
                limits.append((account, start, limit))
    db.executemany(
        "INSERT INTO book (account, start, cap) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET cap = excluded.cap", limits
    )


def _calendar(now: float) -> Callable[[Period, str, int, int], tuple[int, int]]:
    return cache(lambda period, timezone, start, until: period_after(period, timezone, start, until, now))


def _give_back(db: sqlite3.Connection, reservation_id: str, state: str, now: float) -> bool:
    """End an open reservation without a cost; False if it is not open."""
    row = db.execute("SELECT amount FROM reservation WHERE id = ? AND state = 'open'", (reservation_id,)).fetchone()
    if row is None:
        return False
    db.execute("UPDATE reservation SET state = ?, finished = ? WHERE id = ?", (state, now, reservation_id))
    db.execute(f"UPDATE book SET reserved = reserved - ? WHERE id IN {_HELD}", (row[0], reservation_id))
    return True
