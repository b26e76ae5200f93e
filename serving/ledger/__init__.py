"""The budget ledger: money is reserved before an exposure and settled or cancelled after it, never above the cap.

    ledger = SqliteLedger("ledger.sqlite")
    ledger.define([Account("challenger", "*", "*", 1000.0)])
    if ledger.reserve("d1", "challenger", "spring", "video", 0.05):      # expose only then
        ledger.settle("d1", 0.031)                                       # or ledger.cancel("d1")

In reading order: `contract.py` (what any ledger promises), `money.py` (exact amounts), `schema.py`, `commit.py` (one
sync for many calls), `sqlite.py`.
"""

from serving.ledger.contract import Account, Balance, Ledger, LedgerUnavailable, Settlement, UnknownReservation
from serving.ledger.sqlite import SqliteLedger

__all__ = ["Account", "Balance", "Ledger", "LedgerUnavailable", "Settlement", "SqliteLedger", "UnknownReservation"]
