"""Pacing's part of a ledger in a file; `PacingStore` says what its methods promise."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from typing_extensions import override

from serving.ledger.contract import LedgerInUse
from serving.ledger.pacing_store import Lease, PacingStore, Prices
from serving.ledger.sqlite_database import Database


class SqlitePacing(PacingStore):
    """Two tables. The router that has claimed the file paces: prices are not kept for others, gains are its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @override
    def lease(self, owner: str, silent: Lease | None = None) -> Lease:
        return Lease(owner, 1, 0)

    @override
    def publish(self, lease: Lease, states: Mapping[str, str], prices: Prices) -> bool:
        kept, gone = [one for one in states.items() if one[1]], [(name,) for name, state in states.items() if not state]

        def work(db: sqlite3.Connection) -> bool:
            db.executemany("INSERT OR REPLACE INTO pacing_state VALUES (?, ?)", kept)
            db.executemany("DELETE FROM pacing_state WHERE account = ?", gone)
            return True

        return self._database.run(work)

    @override
    def prices(self) -> tuple[int, Prices]:
        raise LedgerInUse("another router paces")

    @override
    def states(self) -> dict[str, str]:
        return self._database.run(lambda db: dict(db.execute("SELECT account, state FROM pacing_state").fetchall()))

    @override
    def report(self, opportunities: Mapping[str, int], gains: Mapping[str, float]) -> None:
        add = "INSERT INTO pacing_opportunities VALUES (?, ?) ON CONFLICT DO UPDATE SET number = number + ?"
        rows = [(account, number, number) for account, number in opportunities.items()]
        if rows:
            self._database.run(lambda db: db.executemany(add, rows))

    @override
    def reports(self) -> tuple[dict[str, int], dict[str, float]]:
        rows = self._database.run(lambda db: db.execute("SELECT account, number FROM pacing_opportunities").fetchall())
        return dict(rows), {}
