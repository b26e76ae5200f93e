"""Reservations are finished for sure: what the ledger can't take now is tried again until it can.

After a crash the decision log knows what the ledger does not: `reconcile` settles what has a cost, and gives back what
was reserved for a decision that never reached the log, and so never reached a caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from concurrent.futures import Executor

from serving.decision_log import Spool
from serving.ledger import Ledger, UnknownReservation
from serving.throttle import OncePerSecond

_RETRY_SECONDS = 1.0
_MOST_FAULTS = 3  # in a row, after which the ledger is left alone for a while
_MOST_PENDING = 100_000  # some 20 MB

log = logging.getLogger(__name__)
log.addFilter(OncePerSecond())


class Settler:
    """Settles and cancels.

    Args:
        ledger: Its calls block.
        pool: Threads for them.
    """

    def __init__(self, ledger: Ledger, pool: Executor) -> None:
        self._ledger = ledger
        self._pool = pool
        self._pending: dict[str, float | None] = {}
        self._wake = asyncio.Event()

    async def finish(self, reservation_id: str, actual: float | None, seconds: float) -> None:
        """Settle (or cancel: None) within a time; later if that does not work, whatever the reason."""
        try:
            async with asyncio.timeout(seconds):
                await self._apply(reservation_id, actual)
        except Exception as error:  # TimeoutError too
            log.warning("to be finished later, %s: %s", type(error).__name__, error)
            self.finish_later(reservation_id, actual)

    def finish_later(self, reservation_id: str, actual: float | None) -> None:
        """Settle (or cancel: None) in the background. A cost that is known is not undone by a cancel."""
        if actual is not None or self._pending.get(reservation_id) is None:
            self._pending[reservation_id] = actual
        self._wake.set()

    @property
    def full(self) -> bool:
        """Whether so much waits that nothing more should be reserved: memory is not a ledger."""
        return len(self._pending) >= _MOST_PENDING

    async def run(self) -> None:
        """The background task."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self.flush():
                await asyncio.sleep(_RETRY_SECONDS)
                self._wake.set()

    async def flush(self) -> bool:
        """Try everything that waits; whether nothing is left."""
        faults = 0
        for reservation_id, actual in list(self._pending.items()):
            try:
                await self._apply(reservation_id, actual)
            except Exception as error:
                log.warning("not finished yet, %s: %s", type(error).__name__, error)
                if reservation_id in self._pending:  # to the end: it must not stand in the way of the others
                    self._pending[reservation_id] = self._pending.pop(reservation_id)
                faults += 1
                if faults == _MOST_FAULTS:  # the ledger is away
                    return False
                continue
            faults = 0
            if self._pending.get(reservation_id, actual) == actual:
                self._pending.pop(reservation_id, None)
        return not self._pending

    async def _apply(self, reservation_id: str, actual: float | None) -> None:
        await asyncio.get_running_loop().run_in_executor(self._pool, finish, self._ledger, reservation_id, actual)


def finish(ledger: Ledger, reservation_id: str, actual: float | None) -> None:
    """Settle, or cancel (None). A cost that was never reserved, of an ad shown unpaid, has no account to charge."""
    if actual is None:
        ledger.cancel(reservation_id)
    else:
        with contextlib.suppress(UnknownReservation):
            ledger.settle(reservation_id, actual)


def reconcile(ledger: Ledger, spool: Spool) -> int:
    """Finish what a crash left open; returns how many reservations that were.

    A reservation whose decision is in the log, and of which no cost was reported yet, stays open. Nothing may be
    reserved here meanwhile: a decision on its way to the log would look like one that never reached it. In a shared
    ledger only those are ours that carry the identity of our log (`PendingDecision.start`).
    """
    unfinished = set(ledger.open_reservations())
    if not unfinished:
        return 0
    ours = {name for name in unfinished if not ledger.shared or name.startswith(spool.identity)}
    logged: set[str] = set()
    withdrawn: set[str] = set()
    for record in spool.read("decision"):
        name = record["decision_id"]
        if name in unfinished:
            (withdrawn if record["withdrawn"] else logged).add(name)
    never_shown = withdrawn | (ours - logged)
    ends: dict[str, float | None] = {name: None for name in never_shown}
    for outcome in spool.read("outcome"):
        if outcome["decision_id"] in unfinished and outcome["kind"] in ("cost", "cancel"):
            ends.setdefault(outcome["decision_id"], outcome["value"] if outcome["kind"] == "cost" else None)
    for reservation_id, actual in ends.items():
        finish(ledger, reservation_id, actual)
    return len(ends)
