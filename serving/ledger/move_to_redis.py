"""Move a ledger from a file to Redis: when one router becomes several, no money may appear or vanish.

    mtorl ledger move /var/lib/mtorl/ledger.sqlite 'redis://mtorl-ledger:6379/0?name=ads'

All that the promises of `contract.py` rest on goes along: limits, the books of all periods, reservations (finished ones
as well, so that nothing is paid twice), what they were for, what the pacing controller remembers. No router may run
meanwhile: the file is locked, and marked afterwards, so that nobody spends from both.

At no moment can both be spent from, wherever a move is stopped; doing it again goes on. In this order:

1. The file gets a generation: a text by which its target is known again, whatever is spent there meanwhile.
2. Everything else is written to the target, which no router uses without a generation.
3. The file is marked as moving: nobody spends from it any more.
4. The target gets the generation: routers spend from it.
5. The file is marked as moved. A target without the generation has lost its accounts since, and is never filled again.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from serving.ledger import money
from serving.ledger.contract import RETENTION_SECONDS, SETTLED_SECONDS, LedgerUnavailable
from serving.ledger.redis_ledger import FORM, LARGEST, RedisLedger, name_of
from serving.ledger.sqlite_tables import ANY_EVENT, MOVED, MOVING, VERSION, bring_up_to_date

_AT_ONCE = 1000  # commands in a round trip
_BOOK = ("spent", "reserved", "excess")

Command = tuple[Any, ...]
"""A command of Redis, with its arguments."""


class NotMoved(RuntimeError):
    """The ledger was not moved; the message says why, and what to do."""


@dataclass(frozen=True)
class Moved:
    """What the target holds now. Currency units, summed over all books: an exposure draws on several."""

    accounts: int
    open_reservations: int
    spent: float
    reserved: float
    before: bool
    """It did so already: the file was moved there by an earlier call."""


def move_to_redis(file: Path, target: RedisLedger) -> Moved:
    """Move a ledger that no router uses into one that knows no spend. Doing it again changes nothing.

    Args:
        file: The ledger's file, which spends nothing afterwards.
        target: An empty ledger, or one whose accounts were set but never spent from.

    Raises:
        NotMoved: A router uses the file, the target knows spend of its own or has lost what was moved there, or one of
            both can't be used.
    """
    try:
        with _alone(file) as db:
            source = _Source(db)
            if source.moved_to not in (None, str(target)):
                raise NotMoved(f"{file}: was moved before, to {source.moved_to}")
            target.check()
            generation = f"{target.prefix}generation"
            before = target.identity() == source.generation
            if source.version == MOVED and not before:
                raise NotMoved(
                    f"{target}: has lost the accounts that {file} was moved to: restore the append-only file of that "
                    "Redis (docs/cluster.md, Several routers); a fresh start would grant the whole budget again"
                )
            if not before:
                _fill(target, source)
                source.mark(MOVING, str(target))
                target.client.set(generation, FORM + source.generation)
            source.mark(MOVED, str(target))
            books = source.books()
            return Moved(
                len(source.accounts),
                len(source.open_reservations()),
                money.units(sum(book["spent"] for book in books.values())),
                money.units(sum(book["reserved"] for book in books.values())),
                before,
            )
    except (RedisError, LedgerUnavailable, sqlite3.Error, OSError) as error:
        raise NotMoved(f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[sqlite3.Connection]:
    """A transaction on a file that nobody else has open, nor can open before the end."""
    if not file.exists():
        raise NotMoved(f"{file}: no such ledger")
    with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=1.0)) as db:
        db.isolation_level = None
        try:
            db.execute("PRAGMA journal_mode = DELETE")  # SQLite does that only for the last connection
            db.execute("PRAGMA locking_mode = EXCLUSIVE")  # the lock stays when a part is committed
            db.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise NotMoved(
                f"{file}: in use ({error}): stop the router first "
                "(kubectl -n mtorl scale statefulset mtorl-router --replicas=0)"
            ) from error
        try:
            yield db
            db.execute("COMMIT")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
            db.execute("PRAGMA journal_mode = WAL")


class _Source:
    """The tables of a file, in the words of the Redis ledger."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.version = bring_up_to_date(db)
        if self.version not in (VERSION, MOVING, MOVED):
            raise NotMoved(f"not a ledger of this version (found {self.version}, need {VERSION})")
        self._commit()
        self.generation, self.moved_to = db.execute("SELECT name, moved_to FROM identity").fetchone()
        rows = db.execute(
            "SELECT id, arm, campaign, channel, period, start, until, cap, active, "
            "start || ' ' || until || ' ' || period || ' ' || timezone || ' ' || parts FROM account"
        ).fetchall()
        self.accounts = {
            number: (name_of(*name), start, until, cap, terms if active else None)
            for number, *name, start, until, cap, active, terms in rows
        }

    def mark(self, version: int, target: str) -> None:
        self._db.execute("UPDATE identity SET moved_to = ?", (target,))
        self._db.execute(f"PRAGMA user_version = {version}")
        self._commit()

    def _commit(self) -> None:
        self._db.execute("COMMIT")
        self._db.execute("BEGIN EXCLUSIVE")

    def books(self) -> dict[str, dict[str, int]]:
        """Book -> what it has seen."""
        rows = self._db.execute(f"SELECT account, start, {', '.join(_BOOK)} FROM book")
        return {self._book(account, start): dict(zip(_BOOK, seen, strict=True)) for account, start, *seen in rows}

    def caps(self) -> dict[str, int]:
        """Book -> its limit."""
        rows = self._db.execute("SELECT account, start, cap FROM book")
        return {self._book(account, start): cap for account, start, cap in rows}

    def open_reservations(self) -> set[str]:
        return {name for (name,) in self._db.execute("SELECT id FROM reservation WHERE state = 'open'")}

    def commands(self, prefix: str) -> Iterator[Command]:
        """What writes everything but the generation, whatever an earlier call has left."""
        caps, in_force, books, opened = (f"{prefix}{key}" for key in ("caps", "in-force", "books", "open"))
        for key in (caps, in_force, books, opened):
            yield "DEL", key
        for account, start, until, cap, terms in self.accounts.values():
            yield "HSET", caps, account, cap
            yield "HSET", books, f"start:{account}", start, f"until:{account}", until
            if terms is not None:
                yield "HSET", in_force, account, terms
        for book, cap in self.caps().items():
            yield "HSET", books, f"cap:{book}", cap
        for book, seen in self.books().items():
            for what, amount in seen.items():
                yield "HSET", books, f"{what}:{book}", amount
        for version, text in self._db.execute("SELECT version, text FROM memory"):
            yield "HSET", books, "memory:version", version, "memory:text", text
        rows = self._db.execute("SELECT id, scope, amount, state, created, charged, excess FROM reservation")
        for name, scope, amount, state, created, charged, excess in rows:
            key = f"{prefix}r:{name}"
            fields = {"state": state, "amount": amount, "scope": name_of(*json.loads(scope)) if scope else ""}
            told = self._db.execute("SELECT event, CAST(event AS TEXT) FROM cost WHERE reservation = ?", (name,))
            events = dict(told.fetchall())
            if ANY_EVENT not in events:  # else nobody knows which one it was, and no other is charged
                fields |= {"books": "\n".join(self._held(name))}
            if state in ("settled", "late"):
                fields |= {"charged": charged, "cost": charged + excess} | {
                    f"event:{event}": 1 for event in events.values()
                }
            else:
                fields |= {"created": f"{created:.17g}"}
            yield "DEL", key
            yield "HSET", key, *(part for field in fields.items() for part in field)
            if state == "open":
                yield "ZADD", opened, fields["created"], name
            else:  # for as long again: less could be too short, and costs memory only
                yield "EXPIRE", key, int(SETTLED_SECONDS if state in ("settled", "late") else RETENTION_SECONDS)
        for request, name in self._db.execute("SELECT name, reservation FROM request"):
            yield "SET", f"{prefix}request:{request}", name, "EX", int(RETENTION_SECONDS)

    def _held(self, reservation: str) -> list[str]:
        rows = self._db.execute(
            "SELECT b.account, b.start FROM hold h JOIN book b ON b.id = h.book WHERE h.reservation = ?", (reservation,)
        )
        return [self._book(account, start) for account, start in rows.fetchall()]

    def _book(self, account: int, start: int) -> str:
        return f"{start}:{self.accounts[account][0]}"


def _fill(target: RedisLedger, source: _Source) -> None:
    """Write everything but the generation."""
    for account, _, _, cap, _ in source.accounts.values():
        if cap > LARGEST * money.NANO:
            raise NotMoved(f"the limit of {account}, {money.units(cap):g}, is above {LARGEST:g}: lower it first")
    if target.has_accounts() and any(_found(target)):
        raise NotMoved(
            f"{target}: knows spend of its own, which is not that of the file: move to a ledger with another name"
        )
    commands = iter(source.commands(target.prefix))
    while some := list(islice(commands, _AT_ONCE)):
        _send(target.client, some)
    if _found(target) != (_spending(source.books()), source.open_reservations()):
        raise NotMoved(f"{target}: does not hold what was written: is another program writing to it?")


def _found(target: RedisLedger) -> tuple[dict[str, dict[str, int]], set[str]]:
    """Books in which something was spent or reserved, and open reservations."""
    books: dict[str, dict[str, int]] = {}
    for name, amount in target.client.hgetall(f"{target.prefix}books").items():
        what, _, book = name.partition(":")
        if what in _BOOK:
            books.setdefault(book, dict.fromkeys(_BOOK, 0))[what] = int(amount)
    return _spending(books), set(target.client.zrange(f"{target.prefix}open", 0, -1))


def _spending(books: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    return {name: book for name, book in books.items() if any(book.values())}


def _send(client: Any, commands: Iterable[Command]) -> None:
    with client.pipeline(transaction=False) as pipeline:
        for command in commands:
            pipeline.execute_command(*command)
        pipeline.execute()
