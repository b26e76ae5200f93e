"""What became of decisions: logged first, then a cost settles its reservation and a cancel gives it back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from mtorl.log.records import OutcomeRecord
from serving.decision_log import Spool, SpoolUnavailable
from serving.router.flow.budgets import Budgets
from serving.router.ops import metrics


class OutcomeIntake:
    """Takes reports of outcomes.

    Args:
        spool: Where they are logged.
        budgets: Where a cost settles and a cancel gives back.
        seconds: How long to wait for the ledger; what it can't take now is settled later.
        forget: Called with the id of each decision whose exposure is given back.
    """

    def __init__(self, spool: Spool, budgets: Budgets, seconds: float, forget: Callable[[str], None]) -> None:
        self._spool = spool
        self._budgets = budgets
        self._seconds = seconds
        self._forget = forget

    async def accept(self, outcomes: Sequence[OutcomeRecord]) -> dict[str, int]:
        """Log and settle.

        Returns:
            How many were accepted (late ones included), duplicate, and dangling (logged, of an unknown decision).

        Raises:
            SpoolUnavailable: Not all are durable. Send all of them again: nothing counts twice.
        """
        statuses = await asyncio.gather(*(self._spool.append("outcome", o) for o in outcomes), return_exceptions=True)
        counts = {"accepted": 0, "duplicate": 0, "dangling": 0}
        failure: BaseException | None = None
        ends: list[Awaitable[None]] = []
        for outcome, status in zip(outcomes, statuses, strict=True):
            if isinstance(status, BaseException):
                failure = status
                metrics.OUTCOMES.labels(outcome["kind"], "failed").inc()
                continue
            metrics.OUTCOMES.labels(outcome["kind"], status).inc()
            counts["accepted" if status == "late" else status] += 1
            if status != "duplicate":
                metrics.SPOOL_RECORDS.inc()
            # Of a duplicate, too: the first time, the process may have ended between the log and the ledger.
            if outcome["kind"] == "cancel":
                self._forget(outcome["decision_id"])
            if outcome["kind"] in ("cost", "cancel"):
                actual = outcome["value"] if outcome["kind"] == "cost" else None
                ends.append(self._budgets.finish(outcome["decision_id"], actual, self._seconds))
        await asyncio.gather(*ends)
        if failure is not None:
            raise SpoolUnavailable(str(failure)) from failure
        return counts
