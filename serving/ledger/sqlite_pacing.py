"""Pacing's part of a ledger in a file, which one router has; `PacingStore` says what its methods promise."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from typing_extensions import override

from serving.ledger.contract import LedgerInUse
from serving.ledger.pacing_store import Lease, PacingStore, Prices
from serving.ledger.sqlite_database import GroupCommit


class SqlitePacing(PacingStore):
    """Three tables. The one router paces: a lease is not renewed, prices are not kept for others, gains are its own."""

    def __init__(self, commit: GroupCommit) -> None:
        self._commit = commit

    @override
    def lease(self, owner: str, silent: Lease | None = None) -> Lease:

        def work(db: sqlite3.Connection) -> Lease:
            held = Lease(*db.execute("SELECT holder, number, 0 FROM pacing_lease").fetchone())
            if held.holder == owner or (held.holder and held != silent):
                return held
            db.execute("UPDATE pacing_lease SET holder = ?, number = number + 1", (owner,))
            return Lease(owner, held.number + 1, 0)

        return self._commit.run(work)

    @override
    def publish(self, lease: Lease, states: Mapping[str, str], prices: Prices) -> bool:

        def work(db: sqlite3.Connection) -> bool:
            if not db.execute("SELECT 1 FROM pacing_lease WHERE number = ?", (lease.number,)).fetchone():
                return False
            db.executemany(
                "INSERT OR REPLACE INTO pacing_state VALUES (?, ?)", [one for one in states.items() if one[1]]
            )
            gone = [(account,) for account, state in states.items() if not state]
            db.executemany("DELETE FROM pacing_state WHERE account = ?", gone)
            return True

        return self._commit.run(work)

    @override
    def prices(self) -> tuple[int, Prices]:
        raise LedgerInUse("another router paces")

    @override
    def states(self) -> dict[str, str]:
        return self._commit.run(lambda db: dict(db.execute("SELECT account, state FROM pacing_state").fetchall()))

    @override
    def report(self, opportunities: Mapping[str, int], gains: Mapping[str, float]) -> None:

        def work(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT INTO pacing_opportunities VALUES (?, ?) "
                "ON CONFLICT DO UPDATE SET number = number + excluded.number",
                list(opportunities.items()),
            )

        if opportunities:
            self._commit.run(work)

    @override
    def reports(self) -> tuple[dict[str, int], dict[str, float]]:
        rows = self._commit.run(lambda db: db.execute("SELECT account, number FROM pacing_opportunities").fetchall())
        return dict(rows), {}
