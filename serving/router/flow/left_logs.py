"""The decision logs of workers that a router no longer has: its first worker settles and ships what is in them.

They are there after a start with fewer workers than before (`serving/decision_log/workers.py`). What a crash had left
open is finished once, as at those workers' own start. What was not shipped is shipped, and what is old is deleted, as
long as this router runs. A worker that is ending may still hold its log; then that is taken over later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from serving.decision_log import Spool, SpoolError
from serving.decision_log.shipper import Shipper
from serving.ledger import Ledger
from serving.router.flow.budgets import reconcile
from serving.router.flow.ledger_of_log import check_ledger

log = logging.getLogger(__name__)


class LeftLogs:
    """Takes them over.

    Args:
        folders: Of the logs.
        ledger: That paid for what is in them.
        shipper_of: Makes the shipper of a log, unless nothing is shipped.

    Attributes:
        shippers: Of those that were taken over.
    """

    def __init__(self, folders: Sequence[Path], ledger: Ledger, shipper_of: Callable[[Spool], Shipper | None]) -> None:
        self._waiting = list(folders)
        self._ledger = ledger
        self._shipper_of = shipper_of
        self._spools: list[Spool] = []
        self._unsettled: list[Spool] = []
        self.shippers: list[Shipper] = []

    async def take_over(self) -> None:
        """Take over those that can be; called again, the rest.

        Raises:
            LedgerUnavailable: It can't say what is open, or is not the one that paid.
        """
        for folder in list(self._waiting):
            try:
                spool = await asyncio.to_thread(Spool, folder, max_known=0)  # nothing is added to it
            except SpoolError as error:
                log.warning("the log of a worker of before can't be taken over yet: %s", error)
                continue
            self._waiting.remove(folder)
            self._spools.append(spool)
            self._unsettled.append(spool)
            if (shipper := self._shipper_of(spool)) is not None:
                shipper.start()
                self.shippers.append(shipper)
        for spool in list(self._unsettled):
            await asyncio.to_thread(check_ledger, self._ledger, spool.folder)
            finished = await asyncio.to_thread(reconcile, self._ledger, spool)
            log.info("took over the log of a worker of before, %s: %d reservations finished", spool.folder, finished)
            self._unsettled.remove(spool)

    async def close(self, seconds: float) -> None:
        """Ship for at most so many seconds, and let go of the folders."""
        await asyncio.gather(*(shipper.close(seconds) for shipper in self.shippers))
        for spool in self._spools:
            await asyncio.to_thread(spool.close)
