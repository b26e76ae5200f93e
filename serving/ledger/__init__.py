"""The budget ledger: reserves money before an ad is shown, and charges or releases it afterwards, within the budgets.

    ledger = open_ledger("ledger.sqlite", patience=1.0)        # or redis://host:6379/0?name=ads
    ledger.define([Account("*", "*", "*", 1000.0), *(Account(arm, "*", "*", 500.0) for arm in arms)])    # one budget
    if ledger.reserve_all([Wanted("d1", "challenger", "spring", "video", 0.05)]) == [True]:      # expose only then
        ledger.settle_all([Cost("d1", 0.031, "event-7")])                                    # or cancel_all(["d1"])
    ledger.expire(24 * 3600)                                             # reservations without an outcome

Files in reading order:
- All ledgers: `contract.py` (promises, cached balances), `money.py` (exact amounts), `location.py` (path or URL).
- A file for one router: `sqlite_database.py` (tables, one sync for many calls), `sqlite_ledger.py`.
- Redis for many routers: `redis_server.py`, `redis_scripts/` (`common.lua` first), `redis_ledger.py`, and for a Redis
  Cluster `redis_slices.py`.
- Pacing: `pacing_store.py` (interface), `redis_pacing.py`, `pacer.py` (prices of all budgets).
- `overrun.py` checks limits independently, and finds budgets that pay for few exposures.
"""

import os
from pathlib import Path

from serving.ledger.contract import Ledger
from serving.ledger.location import PASSWORD, locate
from serving.ledger.sqlite_ledger import SqliteLedger


def open_ledger(where: str | Path, patience: float) -> Ledger:
    """Open a ledger; raises ValueError if `where` is not valid. The first call to the ledger connects to it.

    Args:
        where: Path of a file, or `redis[s][+cluster]://[user@]host[:port][/database][?name=NAME]`. The host may be any
            node of a cluster. The password is read from the environment variable MTORL_LEDGER_PASSWORD. TLS trusts the
            system's certificates, or those in SSL_CERT_FILE.
        patience: Seconds to wait for an answer before a call raises LedgerUnavailable.
    """
    location = locate(where)
    if isinstance(location, Path):
        return SqliteLedger(location, patience)
    # imported only if needed, because a ledger in a file needs no Redis client
    from serving.ledger.redis_ledger import RedisLedger

    return RedisLedger(location, os.environ.get(PASSWORD), patience)
