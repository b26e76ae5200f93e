"""Reserves money before an exposure, settles it by the reported cost, and releases it if nothing was shown.

A settlement that the ledger can't take now is retried until it can. What a crash left open is finished at the start
(`serving/crash_recovery.py`).
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from mtorl.experiment.experiment import Experiment
from mtorl.experiment.layers import Experiments
from mtorl.log.decision_ids import time_of
from mtorl.log.records import CANCEL, OutcomeRecord
from serving.crash_recovery import TOGETHER, Costs, check_ledger, costs_of, finish, reconcile, remember_ledger
from serving.decision_log import Spool, SpoolUnavailable
from serving.ledger.contract import Ledger, Wanted
from serving.ledger.pacer import Pacer, ledger_accounts
from serving.router.flow.pending_decision import PendingDecision
from serving.router.flow.requests import OutcomeParser
from serving.router.ops import metrics, tracing

RETRY_SECONDS = 1.0
MOST_PENDING = 100_000  # some 20 MB
_LATE_SECONDS = 7 * 86_400.0  # after its decision
_PIECE = 50  # outcomes: a few milliseconds

log = logging.getLogger(__name__)


class BudgetsClosed(RuntimeError):
    """Nothing can be reserved now; the ledger was not called."""


class NoAccount(RuntimeError):
    """The experiment has no budget for this campaign and channel; the ledger was not called."""


class Budgets:
    """Reserves money in a ledger whose calls block; for one event loop, and for lanes that reserve.

    The cost cap of a channel, currency units, is reserved for an exposure, unless the request says that it costs less.
    """

    def __init__(self, ledger: Ledger, cost_cap: Mapping[str, float]) -> None:
        self.ledger = ledger
        self.cost_cap = cost_cap
        self.settler = Settler(ledger)
        self._accounts_of: Experiments | None = None
        self._accounts: frozenset[tuple[str, str, str]] = frozenset()  # arm, campaign and channel of each
        self.ready = False  # whether the ledger has been compared with the log: before, nothing may be reserved
        self.pacer = Pacer(ledger, cost_cap)

    def wanted(self, decision: PendingDecision) -> tuple[Wanted, Experiment]:
        """The reservation for a decision that is to be exposed, and its experiment; raises BudgetsClosed, NoAccount."""
        self._check_open()
        campaign, channel = decision.request.campaign_id, decision.action.channel
        if not any((decision.account, c, x) in self._accounts for c in (campaign, "*") for x in (channel, "*")):
            raise NoAccount(f"no budget of the experiment is for campaign {campaign!r} and channel {channel!r}")
        amount = min(decision.request.costs.get(channel, math.inf), self.cost_cap[channel])
        wanted = Wanted(decision.decision_id, decision.account, campaign, channel, amount, decision.key)
        return wanted, decision.experiment

    def reserve(self, wanted: Sequence[tuple[Wanted, Experiment]]) -> list[float | Exception | None]:
        """Reserve in one call of the ledger, which blocks.

        Returns, for each, the amount in currency units; None: an account has too little left. Or why nothing is
        reserved: BudgetsClosed (refused by accounts that are not the experiment's), AlreadyReserved (another decision
        on the same request has the money). Raises LedgerUnavailable: whether it was reserved is unknown, so cancel it.
        """
        in_force = self._accounts_of
        answers: list[float | Exception | None] = []
        granted = self.ledger.reserve_all([one for one, _ in wanted])
        for (one, experiment), answer in zip(wanted, granted, strict=True):
            if isinstance(answer, Exception):
                answers.append(answer)
            elif not answer and (in_force is None or not in_force.holds(experiment)):  # by those of the previous file
                answers.append(BudgetsClosed("the accounts of the changed experiment are not set up yet"))
            else:
                answers.append(one.amount if answer else None)
        return answers

    def wanted_again(self, decision: PendingDecision) -> Wanted:
        """The reservation of the previous answer; raises BudgetsClosed."""
        self._check_open()
        previous, campaign = decision.previous, decision.request.campaign_id
        assert previous is not None, "there is an answer"
        answer, amount = previous.answer, previous.reserved  # as then: the cost cap may be another since a restart
        return Wanted(answer["decision_id"], previous.account, campaign, answer["channel"], amount, decision.key)

    def _check_open(self) -> None:
        if not self.ready:
            raise BudgetsClosed("the ledger is not set up yet")
        if self.settler.full:
            raise BudgetsClosed("too much is still to be settled")

    def set_accounts(self, experiments: Experiments, spool: Spool) -> None:
        """Define the accounts; the first time, also finish what a crash left. Only then may money be spent. Blocks.

        Raises LedgerInUse (a ledger that can't be shared has another router), LedgerUnavailable (try again), or
        ValueError (this kind of ledger can't hold a limit).
        """
        self._accounts_of = None
        if not self.ready:
            self.ledger.claim()
            check_ledger(self.ledger, spool.folder)
        accounts = ledger_accounts(experiments, self.cost_cap)
        self.ledger.define(accounts)
        self._accounts = frozenset((x.arm, x.campaign, x.channel) for x in accounts)
        self._accounts_of = experiments
        if not self.ready:
            remember_ledger(self.ledger, spool.folder)
            if finished := reconcile(self.ledger, spool):
                log.warning("finished %d reservations that a crash had left open", finished)
            self.ready = True

    def set_up_for(self, experiments: Experiments) -> bool:
        """Whether the accounts are those of these experiments, and money may be spent."""
        return self._accounts_of is experiments and self.ready

    def expire(self, ttl: float) -> int:
        """Release some reservations older than `ttl` seconds (`Ledger.expire`); returns how many. Blocks."""
        return self.ledger.expire(ttl) if self.ready else 0  # before, the log may hold a cost that is to be settled


class Settler:
    """Settles and cancels, many reservations in a call, at once or later; for one event loop."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        # Threads of its own: calls that hang must not hold up the kill switch and the rest of the housekeeping.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="settle")
        self._pending: dict[str, dict[str, float]] = {}
        self._wake = asyncio.Event()

    async def finish(self, waiting: Sequence[tuple[str, Costs]], seconds: float) -> None:
        """Settle costs of reservations, or cancel those without, within `seconds`; what fails for any reason, later."""
        for reservation_id, costs in waiting:
            self._add(reservation_id, costs)
        try:
            async with asyncio.timeout(seconds):
                await self._attempt([reservation_id for reservation_id, _ in waiting])
        except TimeoutError:
            log.warning("the ledger is slow: %d reservations are finished later", len(waiting))
        finally:  # also at the end of the process, of a report that takes too long
            if self._pending:
                self._wake.set()

    def finish_later(self, reservation_id: str, costs: Costs) -> None:
        """Settle costs, or cancel if there are none, in the background."""
        self._add(reservation_id, costs)
        self._wake.set()

    def _add(self, reservation_id: str, costs: Costs) -> None:  # a cancel undoes no cost that was reported
        self._pending[reservation_id] = {**self._pending.get(reservation_id, {}), **costs}

    @property
    def pending(self) -> int:
        """Reservations that wait."""
        return len(self._pending)

    @property
    def full(self) -> bool:
        """Whether so many wait that nothing more may be reserved."""
        return self.pending >= MOST_PENDING

    async def run(self) -> None:
        """The background task."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self.flush():
                await asyncio.sleep(RETRY_SECONDS)
                self._wake.set()

    async def flush(self) -> bool:
        """Try all that wait; returns whether nothing is left."""
        waiting = list(self._pending)
        for first in range(0, len(waiting), TOGETHER):
            if not await self._attempt(waiting[first : first + TOGETHER]):  # the ledger is away
                break
        return not self._pending

    async def _attempt(self, names: Sequence[str]) -> bool:
        """Finish some that wait; returns whether not all have failed."""
        some = {name: costs for name in names if (costs := self._pending.get(name)) is not None}
        try:
            failed = await asyncio.get_running_loop().run_in_executor(self._threads, finish, self._ledger, some)
        except Exception as error:
            failed = dict.fromkeys(some, error)
        for name, costs in some.items():
            if name not in failed and self._pending.get(name) is costs:  # else there is more by now
                del self._pending[name]
        for name in failed:
            if name in self._pending:  # moved to the end, behind the others
                self._pending[name] = self._pending.pop(name)
        if failed:
            name, why = next(iter(failed.items()))
            about = {"cause": type(why).__name__, "decision_id": name}
            log.warning("%d reservations to be finished later, %s: %s", len(failed), about["cause"], why, extra=about)
        return not failed or len(failed) < len(some)


class OutcomeIntake:
    """Takes reports of outcomes: logs them, then settles costs and releases cancelled reservations; for one event loop.

    A report may hold a thousand outcomes. So that decisions do not wait for it, the work is done in small pieces, one
    at a time for all reports together. What the ledger does not settle within `seconds` is settled later. `forget` gets
    the ids of cancelled decisions.
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
            late = (time.time() - time_of(outcome["decision_id"]).timestamp()) > _LATE_SECONDS
            metrics.OUTCOMES.labels(outcome["kind"], "late" if late else "accepted").inc()
            if outcome["kind"] == CANCEL:
                self._forget(outcome["decision_id"])
        metrics.SPOOL_RECORDS.inc(len(outcomes))
        costs = [(outcome["decision_id"], of) for outcome in outcomes if (of := costs_of(outcome)) is not None]
        if costs:
            with tracing.span("ledger"):
                await self._budgets.settler.finish(costs, self._seconds)
