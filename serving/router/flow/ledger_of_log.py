"""Checks that a ledger is the one that paid for a decision log: a ledger that was lost must grant no fresh budget.

The log's folder keeps the identity of the ledger in the file `ledger`. At a start, another ledger is refused until the
right one is restored, or until a person agrees (`mtorl ledger agree`).
"""

from __future__ import annotations

import math
from pathlib import Path

from mtorl.log.lake import Lake, lake_database
from mtorl.runtime.files import replacing
from serving.decision_log import segments
from serving.ledger import Ledger, LedgerUnavailable

_FILE = "ledger"


class LedgerLost(LedgerUnavailable):
    """This ledger does not know what the decisions of the log have spent."""


def check_ledger(ledger: Ledger, folder: Path) -> None:
    """Raise LedgerLost unless the ledger paid for the log in this folder, or the log knows of no ledger."""
    found, known = ledger.identity(), _known(folder)
    if found is not None and known in (None, found):
        return
    if known is None and not any(record["expose"] for record in segments.read(folder, "decision")):
        return
    raise LedgerLost(
        f"{ledger} {'has no accounts' if found is None else 'is another one'}, but {folder} holds decisions that a "
        "ledger paid for: restore that ledger, or lower the budgets by what was spent and run "
        "`mtorl ledger agree ROUTER.yaml`"
    )


def remember_ledger(ledger: Ledger, folder: Path) -> None:
    """Keep the identity of the ledger that pays for a log from now on; raises LedgerUnavailable."""
    identity = ledger.identity()
    if identity is None or identity == _known(folder):
        return
    try:
        with replacing(folder / _FILE, durable=True) as unfinished:
            unfinished.write_text(f"{identity}\n")
    except OSError as error:
        raise LedgerUnavailable(f"{folder / _FILE}: {error}") from error


def agree(ledger: Ledger, folder: Path, lake: Lake) -> float:
    """Accept a ledger for a log; returns the costs in log and lake, currency units.

    Raises:
        LedgerUnavailable, LogError: Ledger or lake can't be read.
    """
    if ledger.identity() is None:
        ledger.define([])
    remember_ledger(ledger, folder)
    costs = {one["event_id"]: one["value"] for one in segments.read(folder, "outcome") if one["kind"] == "cost"}
    with lake_database(lake) as db:
        uploaded = f"FROM {lake.records(db, 'outcome')} WHERE kind = 'cost'"
        ((total,),) = db.execute(
            f"SELECT coalesce(fsum(value), 0) {uploaded} AND event_id NOT IN (SELECT unnest($known))",
            {"known": list(costs)},
        ).fetchall()
    return math.fsum([total, *costs.values()])


def _known(folder: Path) -> str | None:
    path = folder / _FILE
    return path.read_text().strip() if path.exists() else None
