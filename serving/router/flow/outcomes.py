"""Takes reports of outcomes: logs them, then settles a cost or releases a cancelled reservation.

A report may hold a thousand outcomes, and takes a second. So that decisions do not wait for it, the work is done in
small pieces, one at a time for all reports together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from mtorl.log.decision_ids import time_of
from mtorl.log.records import CANCEL, OutcomeRecord
from serving.decision_log import Spool, SpoolUnavailable
from serving.router.flow.budgets import Budgets, costs_of
from serving.router.flow.requests import OutcomeParser
from serving.router.ops import metrics, tracing

LATE_SECONDS = 7 * 86_400.0  # after its decision
_PIECE = 50  # outcomes: a few milliseconds


class OutcomeIntake:
    """Takes reports of outcomes; for one event loop.

    What the ledger does not settle within `seconds` is settled later. `forget` gets the ids of cancelled decisions.
    """

    def __init__(
        self, parser: OutcomeParser, spool: Spool, budgets: Budgets, seconds: float, forget: Callable[[str], None]
    ) -> None:
        self._parser = parser
        self._spool = spool
        self._budgets = budgets
        self._seconds = seconds
        self._forget = forget
        self._turn = asyncio.Lock()  # fair: reports take turns, a piece each

    async def accept(self, body: bytes) -> dict[str, int]:
        """Log and settle a report; returns how many outcomes were accepted: all.

        Raises BadRequest: nothing of it counts. Raises SpoolUnavailable: all must be sent again, and none counts twice.
        """
        async with self._turn:
            outcomes = self._parser.parse(body)
        for start in range(0, len(outcomes), _PIECE):
            async with self._turn:
                await self._take(outcomes[start : start + _PIECE])
        return {"accepted": len(outcomes)}

    async def _take(self, outcomes: Sequence[OutcomeRecord]) -> None:
        try:
            with tracing.span("log"):
                await asyncio.wrap_future(self._spool.submit("outcome", *outcomes))
        except SpoolUnavailable:
            for outcome in outcomes:
                metrics.OUTCOMES.labels(outcome["kind"], "failed").inc()
            raise
        for outcome in outcomes:
            late = (time.time() - time_of(outcome["decision_id"]).timestamp()) > LATE_SECONDS
            metrics.OUTCOMES.labels(outcome["kind"], "late" if late else "accepted").inc()
            if outcome["kind"] == CANCEL:
                self._forget(outcome["decision_id"])
        metrics.SPOOL_RECORDS.inc(len(outcomes))
        with tracing.span("ledger"):
            await asyncio.gather(
                *(
                    self._budgets.settler.finish(outcome["decision_id"], costs, self._seconds)
                    for outcome in outcomes
                    if (costs := costs_of(outcome)) is not None
                )
            )
