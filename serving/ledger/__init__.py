"""The budget ledger: money is reserved before an exposure and settled or cancelled after it, never above the cap.

    ledger = open_ledger("ledger.sqlite", patience=1.0)        # or redis://host:6379/0?name=ads
    ledger.define([Account("*", "*", "*", 1000.0), *(Account(arm, "*", "*", 500.0) for arm in arms)])    # one budget
    if ledger.reserve_all([Wanted("d1", "challenger", "spring", "video", 0.05)]) == [True]:      # expose only then
        ledger.settle_all([Cost("d1", 0.031, "event-7")])                                    # or cancel_all(["d1"])
    ledger.expire(24 * 3600)                                             # reservations without an outcome

In reading order: `contract.py` (what every ledger promises, and balances that were read), `money.py` (exact amounts). A
file for one router: `sqlite_database.py` (tables, one sync for many calls), `sqlite_ledger.py`. Redis for many routers:
`redis_server.py`, `redis_scripts/` (`common.lua` first), `redis_ledger.py`; `redis_slices.py` is a cluster's.
`pacing_store.py` is the part that pacing uses, with `redis_pacing.py`; `pacer.py` updates the prices of all budgets
(that of one account is in `mtorl/experiment/paced_account.py`). `location.py` parses the place; `overrun.py` checks
limits from outside, and finds budgets that pay for few exposures.
"""

import os
from pathlib import Path

from serving.ledger.contract import Ledger
from serving.ledger.location import PASSWORD, locate
from serving.ledger.sqlite_ledger import SqliteLedger


def open_ledger(where: str | Path, patience: float) -> Ledger:
    """Open a ledger, which connects at the first call; raises ValueError if `where` is no such place.

    Args:
        where: A path, or `redis[s][+cluster]://[user@]host[:port][/database][?name=NAME]`; of a cluster, any node. The
            password is read from MTORL_LEDGER_PASSWORD; TLS trusts what the system, or SSL_CERT_FILE, does.
        patience: Seconds to wait before giving up with LedgerUnavailable.
    """
    location = locate(where)
    if isinstance(location, Path):
        return SqliteLedger(location, patience)
    from serving.ledger.redis_ledger import RedisLedger  # a ledger in a file needs no Redis client

    return RedisLedger(location, os.environ.get(PASSWORD), patience)
