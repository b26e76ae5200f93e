"""Tests that every kind of ledger behaves like a model in dictionaries."""

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from serving.ledger.contract import RETENTION_SECONDS, SETTLED_SECONDS, Account, Settlement, UnknownReservation
from tests.serving.ledgers import LedgerMachine, cancel, cases, reserve, settle

CENT = 10**7  # nano-units
SECONDS = {"total": math.inf, "day": 86_400.0, "hour": 3_600.0}
SCOPES = (("*", "total"), ("*", "day"), ("c1", "hour"))

# With few names, different calls often use the same reservation.
NAMES = st.sampled_from("abcdefghij")

Scope = tuple[str, str]
Page = tuple[Scope, int]  # An account and the start of one of its periods.


@dataclass
class Book:
    cap: int
    # The most money that may be committed, above `cap` if the cap was lowered later.
    ceiling: int
    spent: int = 0
    reserved: int = 0
    excess: int = 0


@dataclass
class Reservation:
    state: str
    campaign: str
    amount: int
    created: float
    pages: list[Page]
    finished: float = 0.0
    charged: int = 0
    excess: int = 0
    events: set[str] = field(default_factory=set)


class Machine(LedgerMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = self.place.clock
        self.caps: dict[Scope, int] = dict(zip(SCOPES, (200, 120, 100), strict=True))
        self.in_force: set[Scope] = set()
        self.starts: dict[Scope, int] = {}
        self.books: dict[Page, Book] = {}
        self.known: dict[str, Reservation] = {}
        self._define(set(SCOPES))

    def _define(self, in_force: set[Scope], changed: Scope | None = None) -> None:
        accounts = [Account("a", c, "*", self.caps[c, p] / 100, p) for c, p in SCOPES if (c, p) in in_force]  # type: ignore[arg-type]
        self._twice(lambda: self.ledger.define(accounts))
        before, self.in_force = self.in_force, in_force
        self._begin_periods()
        for scope in in_force:
            if scope not in before or scope == changed:
                cap, book = self.caps[scope], self.books.setdefault(self._page(scope), Book(0, 0))
                book.cap, book.ceiling = cap, max(cap, book.spent + book.reserved)

    def _twice(self, call: Callable[[], Any]) -> Any:
        answer = call()
        assert call() == answer
        return answer

    def _begin_periods(self) -> None:
        for scope in self.in_force:
            length = SECONDS[scope[1]]
            start = 0 if length == math.inf else int(self.clock.now // length * length)
            self.starts[scope] = max(start, self.starts.get(scope, 0))

    def _page(self, scope: Scope) -> Page:
        return scope, self.starts[scope]

    def _room(self, page: Page) -> int:
        book = self.books[page]
        return book.cap - book.spent - book.reserved

    def _give_back(self, found: Reservation, state: str) -> None:
        found.state, found.finished = state, self.clock.now
        for page in found.pages:
            self.books[page].reserved -= found.amount

    @rule(name=NAMES, campaign=st.sampled_from(["c1", "c1", "c2"]), amount=st.sampled_from([0, 30, 70, 100]))
    def reserve(self, name: str, campaign: str, amount: int) -> None:
        granted = self._twice(lambda: reserve(self.ledger, name, "a", campaign, "x", amount / 100))
        known = self.known.get(name)
        if known is not None:
            same = (campaign, amount) == (known.campaign, known.amount)
            assert granted == (known.state in ("open", "settled") and same)
            return
        pages = [self._page(scope) for scope in SCOPES if scope in self.in_force and scope[0] in ("*", campaign)]
        caps = {page: self.caps[page[0]] for page in pages}
        books = {page: self.books.get(page) or Book(cap, cap) for page, cap in caps.items()}
        room = [book.cap - book.spent - book.reserved for book in books.values()]
        assert granted == (bool(pages) and max(0, min(room)) >= amount)
        if granted:
            self.books |= books
            for book in books.values():
                book.reserved += amount
            self.known[name] = Reservation("open", campaign, amount, self.clock.now, pages)

    @rule(name=NAMES, actual=st.sampled_from([0, 5, 30, 70, 400]), event=st.sampled_from(["e1", "e1", "e2"]))
    def settle(self, name: str, actual: int, event: str) -> None:
        found = self.known.get(name)
        if found is None:
            with pytest.raises(UnknownReservation):
                settle(self.ledger, name, actual / 100, event)
            return
        if event not in found.events:
            found.events.add(event)
            found.amount = 0 if found.state == "cancelled" else found.amount
            more = min(actual, found.amount - found.charged)
            if found.state != "open":
                more = max(0, min([more, *map(self._room, found.pages)]))
            if self.kind == "cluster" and found.state != "open":  # its slice may have less left
                charged = round(100 * settle(self.ledger, name, actual / 100, event).charged) - found.charged
                assert 0 <= charged <= more
                more = charged
            for page in found.pages:
                book = self.books[page]
                book.reserved -= found.amount if found.state == "open" else 0
                book.spent += more
                book.excess += actual - more
            found.charged, found.excess = found.charged + more, found.excess + actual - more
            found.state = "settled" if found.state in ("open", "settled") else "late"
            found.finished = self.clock.now
        answer = self._twice(lambda: settle(self.ledger, name, actual / 100, event))
        assert answer == Settlement(found.charged / 100, found.excess / 100)

    @precondition(lambda self: any(found.state == "expired" for found in self.known.values()))
    @rule(which=st.integers(0, 9), actual=st.sampled_from([30, 400]))
    def settle_late(self, which: int, actual: int) -> None:
        expired = [name for name, found in self.known.items() if found.state == "expired"]
        self.settle(expired[which % len(expired)], actual, "e1")

    @rule(name=NAMES)
    def cancel(self, name: str) -> None:
        self._twice(lambda: cancel(self.ledger, name))
        found = self.known.setdefault(name, Reservation("cancelled", "", 0, 0.0, [], self.clock.now))
        if found.state == "open":
            self._give_back(found, "cancelled")

    @rule(ttl=st.sampled_from([0, 0, 1_800, 86_400]))
    def expire(self, ttl: int) -> None:
        overdue = [r for r in self.known.values() if r.state == "open" and r.created <= self.clock.now - ttl]
        assert self.ledger.expire(ttl) == len(overdue)
        for found in overdue:
            self._give_back(found, "expired")
        assert self.ledger.expire(ttl) == 0
        if self.kind == "sqlite":  # Redis forgets by its own clock
            kept = {"open": math.inf, "settled": SETTLED_SECONDS, "late": SETTLED_SECONDS}
            now = self.clock.now
            self.known = {
                n: r for n, r in self.known.items() if r.finished >= now - kept.get(r.state, RETENTION_SECONDS)
            }

    @rule(name=NAMES, amount=st.sampled_from([30, 70, 100]))
    def reserve_and_forget(self, name: str, amount: int) -> None:
        self.reserve(name, "c1", amount)
        self.expire(0)

    @rule(seconds=st.sampled_from([0.5, 1_800, 3_600, 86_400, 8 * 86_400, -1_800, -3_600, -2 * 86_400]))
    def turn_the_clock(self, seconds: float) -> None:
        self.clock.now += seconds
        self._begin_periods()

    @rule(scope=st.sampled_from(SCOPES), cap=st.sampled_from([0, 50, 200, 400]))
    def change_limit(self, scope: Scope, cap: int) -> None:
        changed = cap != self.caps[scope]
        self.caps[scope] = cap
        self._define(self.in_force | {scope}, scope if changed else None)

    @rule(scope=st.sampled_from(SCOPES))
    def leave_out(self, scope: Scope) -> None:
        self._define(self.in_force - {scope})

    @rule()
    def restart(self) -> None:
        self.ledger.close()
        self.ledger = self.place.open()

    @invariant()
    def cap_holds_and_nothing_is_lost(self) -> None:
        stored = self.place.books()
        for (_, campaign, _, period, start), (spent, reserved, excess) in stored.items():
            book = self.books[(campaign, period), int(start)]
            assert (spent, reserved, excess) == (book.spent * CENT, book.reserved * CENT, book.excess * CENT)
            assert spent + reserved <= book.ceiling * CENT
        assert len(stored) == sum(bool(b.spent or b.reserved or b.excess) for b in self.books.values())

    @invariant()
    def balances_show_the_current_period(self) -> None:
        shown = {(b.campaign, b.period): b for b in self.ledger.balances()}
        assert set(shown) == self.in_force
        for scope, b in shown.items():
            cap = self.caps[scope]
            book = self.books.get(self._page(scope)) or Book(cap, cap)
            assert (b.limit, b.spent, b.reserved) == (book.cap / 100, book.spent / 100, book.reserved / 100)
            assert b.start == self.starts[scope]
        with closing(self.place.open()) as new:
            assert new.balances() == self.ledger.balances(), "a full read and a read of changes agree"
        assert set(self.ledger.open_reservations()) == {n for n, r in self.known.items() if r.state == "open"}


TestSqlite, TestRedis, TestCluster = cases(Machine, 50)
