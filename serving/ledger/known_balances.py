"""Keeps balances that were read, so that a reading costs what has changed since the last one, and not all accounts."""

from __future__ import annotations

import threading
from collections.abc import Callable

from serving.ledger.contract import Balance

Changes = tuple[int, dict[str, list[Balance]]]
"""The number of the last change, and the campaigns that changed, each with all its accounts in force."""


class KnownBalances:
    """Balances of all campaigns, as of the last reading; for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self._campaigns: dict[str, list[Balance]] = {}

    def read(self, changes: Callable[[int], Changes]) -> list[Balance]:
        """Read the changes after the last one that is known; returns all balances, by campaign."""
        with self._lock:
            number, changed = changes(self._number)
            if number < self._number:  # an older copy of the ledger, of which everything was read
                self._campaigns = {}
            self._number = number
            if not changed.keys() <= self._campaigns.keys():
                self._campaigns = dict(sorted((self._campaigns | changed).items()))
            self._campaigns |= changed
            return [balance for balances in self._campaigns.values() for balance in balances]
