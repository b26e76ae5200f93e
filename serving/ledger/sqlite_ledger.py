"""A ledger in one SQLite file, for the threads of a single router.

Each call acquires the write lock before it reads, so that no other call can spend the same money.
"""

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import cache, partial
from pathlib import Path
from typing import Any

from typing_extensions import override

from mtorl.experiment.arm import ALL_ARMS
from mtorl.policy.periods import Period, period_after
from mtorl.runtime.clock_jumps import ClockJumps
from serving.ledger import contract, money
from serving.ledger.pacing_store import Lease, PacingStore, Prices
from serving.ledger.sqlite_database import Database, Work

_BOOK = "LEFT JOIN book b ON b.account = a.id AND b.start = a.start"  # joins the amounts of the current period
_ACCOUNT = "arm, campaign, channel, period, cap, timezone, parts, start, until, active"
_SET_ACCOUNT = f"""
INSERT INTO account ({_ACCOUNT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET cap = excluded.cap, timezone = excluded.timezone, parts = excluded.parts,
    start = excluded.start, until = excluded.until, active = 1
"""
_NEW = (0, "", "", 0, 0, 0)  # values for an account that does not exist yet
# most reservations that `expire` changes in one transaction
_BATCH = 500
# most batches that one call of `expire` deletes
_FORGOTTEN = 4


class SqliteLedger(contract.Ledger):
    """A ledger in a file.

    Args:
        path: The file, which only `define` creates. If the file is deleted, spending stops.
        patience: Seconds to wait for other threads and processes.
    """

    shared = False

    def __init__(self, path: str | Path, patience: float = 5.0, clock: Callable[[], float] | None = None) -> None:
        self.path = Path(path)
        self._clock = clock or time.time
        self._jumps = ClockJumps(clock or time.monotonic)
        self._database = Database(self.path, patience)
        self.pacing = _Pacing(self._database)
        self._known = contract.KnownBalances()

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
    def define(self, accounts: Iterable[contract.Account]) -> None:
        limits = {account: money.limit(account.limit) for account in accounts}
        divided = contract.parts(limits)
        wanted = {(a.arm, *a.budget): (limit, a.timezone, divided[a.budget]) for a, limit in limits.items()}
        self._jumps.observe(self._clock())

        def work(db: sqlite3.Connection) -> None:
            known = {row[:4]: row[4:] for row in db.execute(f"SELECT {_ACCOUNT} FROM account")}
            after = _calendar(self._clock())
            present = {of: after(of[3], terms[1], *known.get(of, _NEW)[3:5]) for of, terms in wanted.items()}
            # All accounts of a budget have the same period.
            states = {of: (*wanted[of], *present.get((ALL_ARMS, *of[1:]), own), 1) for of, own in present.items()}
            db.executemany(_SET_ACCOUNT, [(*of, *state) for of, state in states.items() if known.get(of) != state])
            gone = [of for of, state in known.items() if state[-1] and of not in wanted]
            db.executemany("UPDATE account SET active = 0 WHERE (arm, campaign, channel, period) = (?, ?, ?, ?)", gone)
            before = {(*of[1:], state[2]) for of, state in known.items() if state[-1]}
            _limit_anew(db, {of[1:] for of, terms in wanted.items() if (*of[1:], terms[2]) not in before})

        self._database.create_if_new()
        self._database.run(work)

    @override
    def reserve_all(self, wanted: Sequence[contract.Wanted]) -> list[bool | Exception]:
        return self._database.run_each([self._reservation(reservation) for reservation in wanted])

    def _reservation(self, asked: contract.Wanted) -> Work[bool]:
        reservation_id, request = asked.reservation_id, asked.request
        wanted, scope = money.reservation(asked.amount), json.dumps([asked.arm, asked.campaign, asked.channel])

        def work(db: sqlite3.Connection) -> bool:
            known = db.execute(
                "SELECT state IN ('open', 'settled') AND amount = ? AND scope = ? FROM reservation WHERE id = ?",
                (wanted, scope, reservation_id),
            ).fetchone()
            if known:
                return bool(known[0])
            other = db.execute(
                "SELECT 1 FROM reservation WHERE request = ? AND state IN ('open', 'settled', 'late')", (request,)
            ).fetchone()
            if other:
                raise contract.AlreadyReserved(f"{self.path}: another reservation pays for this request")
            now = self._clock()
            _begin_periods(db, now)
            accounts = db.execute(
                "SELECT a.arm, a.id, a.start, a.cap, b.id, ifnull(b.cap - b.spent - b.reserved, a.cap) "
                f"FROM account a {_BOOK} "
                "WHERE a.active AND a.arm IN (?, '*') AND a.campaign IN (?, '*') AND a.channel IN (?, '*')",
                (asked.arm, asked.campaign, asked.channel),
            ).fetchall()
            if not any(arm == asked.arm for arm, *_ in accounts) or max(0, min(room for *_, room in accounts)) < wanted:
                return False
            books = []
            for _, account, start, cap, book, _ in accounts:
                if book is None:
                    row = (account, start, cap)
                    book = db.execute("INSERT INTO book (account, start, cap) VALUES (?, ?, ?)", row).lastrowid
                books.append(book)
            db.execute(
                "INSERT INTO reservation (id, scope, amount, state, created, books, request) "
                "VALUES (?, ?, ?, 'open', ?, ?, ?)",
                (reservation_id, scope, wanted, now, json.dumps(books), request),
            )
            _reserve(db, books, wanted)
            return True

        return work

    @override
    def settle_all(self, costs: Sequence[contract.Cost]) -> list[contract.Settlement | Exception]:
        return self._database.run_each([self._settlement(*cost) for cost in costs])

    def _settlement(self, reservation_id: str, actual: float, event: str) -> Work[contract.Settlement]:
        cost = money.cost(actual)

        def work(db: sqlite3.Connection) -> contract.Settlement:
            known = db.execute(
                "SELECT amount, state, charged, excess, books, events FROM reservation WHERE id = ?", (reservation_id,)
            ).fetchone()
            if known is None:
                raise contract.UnknownReservation(reservation_id)
            amount, state, charged, excess, *texts = known
            books, events = map(json.loads, texts)
            if event not in events:
                if state == "cancelled":
                    amount = 0  # a cancelled reservation has no money
                more, freed = min(cost, amount - charged), amount
                if state != "open":
                    left = "SELECT cap - spent - reserved FROM book WHERE id = ?"
                    rooms = [db.execute(left, (book,)).fetchone()[0] for book in books]
                    more, freed = max(0, min([more, *rooms])), 0
                charged, excess = charged + more, min(excess + cost - more, money.MOST)
                state = "settled" if state in ("open", "settled") else "late"
                db.execute(
                    "UPDATE reservation SET amount = ?, state = ?, finished = ?, charged = ?, excess = ?, events = ? "
                    "WHERE id = ?",
                    (amount, state, self._clock(), charged, excess, json.dumps([*events, event]), reservation_id),
                )
                db.executemany(
                    "UPDATE book SET reserved = reserved - ?, spent = spent + ?, "
                    f"excess = min(excess + ?, {money.MOST}) WHERE id = ?",
                    [(freed, more, cost - more, book) for book in books],
                )
            return contract.Settlement(money.units(charged), money.units(excess))

        return work

    @override
    def cancel_all(self, reservation_ids: Sequence[str]) -> list[Exception | None]:
        return self._database.run_each([partial(_cancel, name=name, now=self._clock()) for name in reservation_ids])

    @override
    def expire(self, ttl: float) -> int:
        now = self._clock()
        ages = (ttl, contract.SETTLED_SECONDS, contract.RETENTION_SECONDS)
        overdue, settled, finished = (self._jumps.before(now, age) for age in ages)

        def forget_some(db: sqlite3.Connection) -> int:
            rows = db.execute(
                "SELECT id FROM reservation WHERE state IN ('settled', 'late') AND finished < ? UNION ALL "
                "SELECT id FROM reservation WHERE state IN ('cancelled', 'expired') AND finished < ? LIMIT ?",
                (settled, finished, _BATCH),
            ).fetchall()
            db.executemany("DELETE FROM reservation WHERE id = ?", rows)
            return len(rows)

        def expire_some(db: sqlite3.Connection) -> int:
            query = "SELECT id FROM reservation WHERE state = 'open' AND created <= ? LIMIT ?"
            names = db.execute(query, (overdue, _BATCH)).fetchall()
            return sum(_give_back(db, name, "expired", now) for (name,) in names)

        for _ in range(_FORGOTTEN):
            if self._database.run(forget_some) < _BATCH:
                break
        return self._database.run(expire_some)

    @override
    def balances(self) -> list[contract.Balance]:
        return self._known.read(self._changes)

    def _changes(self, seen: int) -> contract.Changes:

        def work(db: sqlite3.Connection) -> contract.Changes:
            _begin_periods(db, self._clock())
            (last,) = db.execute("SELECT ifnull(max(number), 0) FROM change").fetchone()
            # The file was restored from an older copy, so read all balances.
            since = seen if seen <= last else 0
            found: dict[str, list[contract.Balance]] = {}
            rows = db.execute(
                "SELECT c.campaign, a.arm, a.channel, a.period, a.start, ifnull(b.cap, a.cap), ifnull(b.spent, 0), "
                f"ifnull(b.reserved, 0), ifnull(b.excess, 0) FROM change c "
                f"LEFT JOIN account a ON a.campaign = c.campaign AND a.active {_BOOK} WHERE c.number > ? ORDER BY a.id",
                (since,),
            )
            for campaign, arm, channel, period, start, *amounts in rows:
                balances = found.setdefault(campaign, [])
                if arm is not None:
                    limit, spent, reserved, excess = map(money.units, amounts)
                    balance = contract.Balance(arm, campaign, channel, limit, spent, reserved, excess, period, start)
                    balances.append(balance)
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
    def room(self) -> contract.Room:
        """Return the free disk space, without waiting for the database."""
        try:
            disk, device = os.statvfs(self.path.parent), self.path.parent.stat().st_dev
        except OSError as error:
            raise contract.LedgerUnavailable(f"{self.path}: {error}") from error
        return contract.Room("file", disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize, device)

    @override
    def close(self) -> None:
        self._database.close()
        self._known = contract.KnownBalances()

    def __str__(self) -> str:
        return str(self.path)


class _Pacing(PacingStore):
    """Stores the states for pacing in a table. Prices and gains stay in memory, because no other router reads them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._gains: Mapping[str, float] = {}

    @override
    def lease(self, owner: str, silent: Lease | None = None) -> Lease:
        return Lease(owner, 1, 0)

    @override
    def publish(self, lease: Lease, states: Mapping[str, str], prices: Prices) -> bool:
        put = "INSERT INTO pacing (account, state) VALUES (?, ?) ON CONFLICT DO UPDATE SET state = excluded.state"
        self._database.run(lambda db: db.executemany(put, states.items()))
        return True

    @override
    def prices(self) -> tuple[int, Prices]:
        raise contract.LedgerInUse("another router paces")

    @override
    def states(self) -> dict[str, str]:
        return self._stored("state", "state != ''")

    @override
    def report(self, opportunities: Mapping[str, int], gains: Mapping[str, float]) -> None:
        self._gains = gains
        add = (
            "INSERT INTO pacing (account, opportunities) VALUES (?, ?) "
            "ON CONFLICT DO UPDATE SET opportunities = ifnull(opportunities, 0) + excluded.opportunities"
        )
        if opportunities:
            self._database.run(lambda db: db.executemany(add, opportunities.items()))

    @override
    def reports(self) -> tuple[dict[str, int], dict[str, float]]:
        return self._stored("opportunities", "opportunities > 0"), dict(self._gains)

    def _stored(self, column: str, where: str) -> dict[str, Any]:
        return self._database.run(lambda db: dict(db.execute(f"SELECT account, {column} FROM pacing WHERE {where}")))


def _begin_periods(db: sqlite3.Connection, now: float) -> None:
    """Begin a new period for each account whose period has ended."""
    due = db.execute(
        "SELECT arm, campaign, channel, period, id, timezone, start, until FROM account WHERE active AND until <= ?",
        (now,),
    ).fetchall()
    after = _calendar(now)
    wholes = {row[1:4]: after(row[3], *row[5:]) for row in due if row[0] == ALL_ARMS}
    rows = [(*wholes.get(row[1:4], after(row[3], *row[5:])), row[4]) for row in due]
    db.executemany("UPDATE account SET start = ?, until = ? WHERE id = ?", rows)


def _limit_anew(db: sqlite3.Connection, budgets: Set[tuple[str, ...]]) -> None:
    """Set new limits for budgets that are now divided differently."""
    if not budgets:
        return
    rows = db.execute(
        "SELECT a.campaign, a.channel, a.period, a.arm, a.id, a.start, a.cap, b.cap, ifnull(b.spent, 0), "
        f"ifnull(b.reserved, 0) FROM account a {_BOOK} WHERE a.active"
    ).fetchall()
    wholes = {row[:3]: (row[6], row[8]) for row in rows if row[3] == ALL_ARMS}
    limits = []
    for campaign, channel, period, arm, account, start, cap, booked, spent, reserved in rows:
        if (budget := (campaign, channel, period)) in budgets:
            whole = None if arm == ALL_ARMS else wholes.get(budget)
            limit = cap if whole is None else contract.limit_after_a_change(cap, spent, reserved, *whole)
            if limit != (cap if booked is None else booked):
                limits.append((account, start, limit))
    db.executemany(
        "INSERT INTO book (account, start, cap) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET cap = excluded.cap", limits
    )


def _calendar(now: float) -> Callable[[Period, str, int, int], tuple[int, int]]:
    return cache(lambda period, timezone, start, until: period_after(period, timezone, start, until, now))


def _cancel(db: sqlite3.Connection, name: str, now: float) -> None:
    if not _give_back(db, name, "cancelled", now):
        db.execute(
            "INSERT OR IGNORE INTO reservation (id, amount, state, created, finished) VALUES (?, 0, 'cancelled', ?, ?)",
            (name, now, now),
        )


def _give_back(db: sqlite3.Connection, name: str, state: str, now: float) -> bool:
    """Release a reservation's money; returns False if the reservation is not open."""
    row = db.execute("SELECT amount, books FROM reservation WHERE id = ? AND state = 'open'", (name,)).fetchone()
    if row is None:
        return False
    db.execute("UPDATE reservation SET state = ?, finished = ? WHERE id = ?", (state, now, name))
    _reserve(db, json.loads(row[1]), -row[0])
    return True


def _reserve(db: sqlite3.Connection, books: Iterable[int], amount: int) -> None:
    db.executemany("UPDATE book SET reserved = reserved + ? WHERE id = ?", [(amount, book) for book in books])
