"""Brings the budget ledger into agreement with the decision log, after a crash or after the loss of a ledger.

The folder of the log stores which ledger belongs to it. With another ledger, a router might spend the budget twice, so
it spends nothing until a person accepts the new ledger (`mtorl ledger agree`).
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mtorl.log.decision_ids import time_of
from mtorl.log.lake import Lake, lake_database
from mtorl.runtime.files import replacing
from serving import messages
from serving.decision_log import Spool, segments
from serving.ledger.contract import Cost, Ledger, LedgerUnavailable, UnknownReservation

TOGETHER = 100  # reservations per call of the ledger
_NEWEST = 50_000  # newest decisions and outcomes to read; older ones are finished
_NEVER, _MINUTE = datetime.max.replace(tzinfo=UTC), timedelta(minutes=1)
_PAID_BY = "ledger"  # file that stores the identity of the ledger

Costs = Mapping[str, float]
"""Reported costs of a decision in currency units, by event id; empty if the ad was not shown."""


def finish(ledger: Ledger, waiting: Mapping[str, Costs]) -> dict[str, Exception]:
    """Settle reservations that have costs, cancel the others, and ignore unknown ones; returns errors by id."""
    told = [Cost(name, actual, event) for name, costs in waiting.items() for event, actual in costs.items()]
    unused = [name for name, costs in waiting.items() if not costs]
    answers = [
        *zip([cost.reservation_id for cost in told], ledger.settle_all(told) if told else (), strict=True),
        *zip(unused, ledger.cancel_all(unused) if unused else (), strict=True),
    ]
    failed = {name: answer for name, answer in answers if isinstance(answer, Exception)}
    return {name: error for name, error in failed.items() if not isinstance(error, UnknownReservation)}


def costs_of(outcome: Mapping[str, Any]) -> Costs | None:
    """Return the costs that an outcome reports, by event id; empty for the kind "cancel".

    Returns None for other kinds, such as clicks.
    """
    return {"cost": {outcome["event_id"]: outcome["value"]}, "cancel": {}}.get(outcome["kind"])


def reconcile(ledger: Ledger, spool: Spool) -> int:
    """Charge or release the reservations that a crash left open; returns how many.

    A reservation is released if the log has no decision for it, because no caller got that decision. So the router must
    not reserve money during this call.
    """
    unfinished = set(ledger.open_reservations())
    exposed: set[str] = set()
    # withdrawn decisions and, added below, those that the log lacks
    finished: set[str] = set()
    read, oldest = 0, None
    for record in spool.newest("decision", _NEWEST) if unfinished else ():
        name = record["decision_id"]
        read, oldest = read + 1, oldest or time_of(name)
        if name in unfinished:
            (exposed if record["expose"] and not record["withdrawn"] else finished).add(name)
    # If not all decisions were read, a missing decision may be one of those that were not read. These begin at most one
    # minute after the oldest decision that was read, so cancel only reservations that are younger than that.
    ours = {name for name in unfinished - exposed if name.endswith(spool.identity)}
    if read == _NEWEST or not spool.never_pruned("decision"):
        since = oldest + _MINUTE if oldest else _NEVER
        ours = {name for name in ours if time_of(name) >= since}
        # After the clock was set back, an older segment may have later ids.
        if ours:
            ours -= {record["decision_id"] for record in spool.written_since("decision", since.timestamp())}
    finished |= ours
    waiting: dict[str, Costs] = {name: {} for name in finished}
    for outcome in spool.newest("outcome", _NEWEST):
        if (costs := costs_of(outcome)) is not None:
            name = outcome["decision_id"]
            waiting[name] = {**waiting.get(name, {}), **costs}
    names = list(waiting)
    for first in range(0, len(names), TOGETHER):
        for error in finish(ledger, {name: waiting[name] for name in names[first : first + TOGETHER]}).values():
            raise error
    return len(waiting.keys() & unfinished)


def check_ledger(ledger: Ledger, folder: Path) -> None:
    """Raise LedgerUnavailable if another ledger paid for the decisions in this log."""
    found, known = ledger.identity(), _paid_by(folder)
    if found is not None and known in (None, found):
        return
    if known is None and not any(record["expose"] for record in segments.read(folder, "decision")):
        return
    raise LedgerUnavailable(messages.NOT_THIS_LEDGER(ledger=ledger, log=folder))


def remember_ledger(ledger: Ledger, folder: Path) -> None:
    """Store the ledger's identity in the log's folder; raises LedgerUnavailable."""
    identity = ledger.identity()
    if identity is None or identity == _paid_by(folder):
        return
    try:
        with replacing(folder / _PAID_BY, durable=True) as unfinished:
            unfinished.write_text(f"{identity}\n")
    except OSError as error:
        raise LedgerUnavailable(f"{folder / _PAID_BY}: {error}") from error


def agree(ledger: Ledger, folder: Path, lake: Lake) -> float:
    """Accept a ledger for an existing log, even if another ledger paid for the log's decisions.

    Raises LedgerUnavailable or LogError.

    Returns:
        The total of all costs in the log and the lake, in currency units.
    """
    if ledger.identity() is None:
        ledger.define([])
    remember_ledger(ledger, folder)
    outcomes = segments.read(folder, "outcome")
    costs = {one["decision_id"] + one["event_id"]: one["value"] for one in outcomes if one["kind"] == "cost"}
    with lake_database(lake) as db:
        uploaded = f"FROM {lake.records(db, 'outcome')} WHERE kind = 'cost'"
        ((total,),) = db.execute(
            f"SELECT coalesce(fsum(value), 0) {uploaded} AND decision_id || event_id NOT IN (SELECT unnest($known))",
            {"known": list(costs)},
        ).fetchall()
    return math.fsum([total, *costs.values()])


def _paid_by(folder: Path) -> str | None:
    path = folder / _PAID_BY
    return path.read_text().strip() if path.exists() else None
