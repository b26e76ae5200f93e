"""A ledger in memory: of `serving/ledger/contract.py`, what a pacing controller and a market of exposures ask for.

Days of decisions go through it in seconds. A reservation is settled at once, so none is ever open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from mtorl.experiment.arm import ALL_ARMS
from mtorl.policy.periods import Period, period_at
from serving.ledger.contract import Account, Balance, Budget, limit_after_a_change, parts

_UNITS = 10**9  # in one currency unit: amounts are whole numbers, as in every ledger
_STEP = 900.0  # seconds; periods begin on whole ones

_Scope = tuple[str, str, str, Period]


@dataclass
class _Book:
    """One account in one period, in units."""

    limit: int
    spent: int = 0


@lru_cache
def _start(period: Period, timezone: str, steps: float) -> int:
    return period_at(period, timezone, steps * _STEP)[0]


class MemoryLedger:
    """Accounts, their periods, and what the pacing controllers remember.

    Args:
        clock: Seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._accounts: dict[_Scope, Account] = {}
        self._parts: dict[Budget, str] = {}
        self._books: dict[tuple[_Scope, int], _Book] = {}
        self._memory = 0, ""

    def define(self, accounts: Iterable[Account]) -> None:
        """See `Ledger.define`."""
        limits = {account: math.floor(account.limit * _UNITS) for account in accounts}
        self._accounts = {(a.arm, a.campaign, a.channel, a.period): a for a in limits}
        divided = parts(limits)
        for budget, text in divided.items():
            if self._parts.get(budget) == text:
                continue
            whole = self._book((ALL_ARMS, *budget))
            whole.limit = limits[self._accounts[ALL_ARMS, *budget]]
            for scope, account in self._accounts.items():
                if scope[1:] == budget and account.arm != ALL_ARMS:
                    book = self._book(scope)
                    book.limit = limit_after_a_change(limits[account], book.spent, 0, whole.limit, whole.spent)
        self._parts = divided

    def spend(self, arm: str, most: float, cost: float) -> bool:
        """Reserve an amount in the accounts of an arm, and settle a cost no higher; False: no room, or no account."""
        books = [self._book(scope) for scope in self._accounts if scope[0] in (arm, ALL_ARMS)]
        amount, actual = round(most * _UNITS), round(cost * _UNITS)
        if not books or any(book.spent + amount > book.limit for book in books):
            return False
        for book in books:
            book.spent += actual
        return True

    def balances(self) -> list[Balance]:
        """See `Ledger.balances`."""
        found = []
        for scope in self._accounts:
            book = self._book(scope)
            limit, spent = book.limit / _UNITS, book.spent / _UNITS
            found.append(Balance(*scope[:3], limit, spent, 0.0, 0.0, scope[3], self._start(scope)))
        return found

    def now(self) -> float:
        """See `Ledger.now`."""
        return self._clock()

    def memory(self) -> tuple[int, str]:
        """See `Ledger.memory`."""
        return self._memory

    def remember(self, version: int, text: str) -> bool:
        """See `Ledger.remember`."""
        if version != self._memory[0]:
            return False
        self._memory = version + 1, text
        return True

    def _start(self, scope: _Scope) -> int:
        account = self._accounts[scope]
        return _start(account.period, account.timezone, self._clock() // _STEP)

    def _book(self, scope: _Scope) -> _Book:
        key = scope, self._start(scope)
        if key not in self._books:
            self._books[key] = _Book(math.floor(self._accounts[scope].limit * _UNITS))
        return self._books[key]
