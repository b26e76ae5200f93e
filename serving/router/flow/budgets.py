"""Reserves money before an ad is shown, charges the reported cost, and releases the money if no ad was shown.

If the ledger does not answer, the charge is retried until it succeeds. Reservations that a crash has left open are
settled or released at the next start (`serving/crash_recovery.py`).
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
MOST_PENDING = 100_000  # if so many reservations wait to be settled (20 MB), no new ones are made
_LATE_SECONDS = 7 * 86_400.0  # an outcome counts as late if its decision is older than this
_PIECE = 50  # most outcomes that are handled at once, which takes a few milliseconds

log = logging.getLogger(__name__)


class BudgetsClosed(RuntimeError):
    """Nothing can be reserved now."""


class NoAccount(RuntimeError):
    """Raised if the experiment has no budget for a campaign and channel. The ledger is then not called."""


class Budgets:
    """Makes the router's reservations in a ledger. Used by one event loop and by the threads of lanes.

    The amount reserved for an exposure is the channel's `cost_cap` in currency units, or the highest cost in the
    request if that is lower.
    """

    def __init__(self, ledger: Ledger, cost_cap: Mapping[str, float]) -> None:
        self.ledger = ledger
        self.cost_cap = cost_cap
        self.settler = Settler(ledger)
        self._accounts_of: Experiments | None = None
        self._accounts: frozenset[tuple[str, str, str]] = frozenset()  # arm, campaign and channel of each account
        self.ready = False  # False until the first `set_accounts` has settled the costs in the log
        self.pacer = Pacer(ledger, cost_cap)

    def wanted(self, decision: PendingDecision) -> tuple[Wanted, Experiment]:
        """Return the reservation to make for a decision, and its experiment; raises BudgetsClosed or NoAccount."""
        self._check_open()
        campaign, channel = decision.request.campaign_id, decision.action.channel
        if not any((decision.account, c, x) in self._accounts for c in (campaign, "*") for x in (channel, "*")):
            raise NoAccount(f"the experiment has no budget for campaign {campaign!r} and channel {channel!r}")
        amount = min(decision.request.costs.get(channel, math.inf), self.cost_cap[channel])
        wanted = Wanted(decision.decision_id, decision.account, campaign, channel, amount, decision.key)
        return wanted, decision.experiment

    def reserve(self, wanted: Sequence[tuple[Wanted, Experiment]]) -> list[float | Exception | None]:
        """Make reservations with one call of the ledger, which blocks.

        Returns for each item the reserved currency units, None if an account has too little left, or an error:

        - BudgetsClosed: the ledger does not have the accounts of the changed experiment file yet.
        - AlreadyReserved: another decision on the same request has reserved money.

        After LedgerUnavailable, some reservations may exist nevertheless, and the caller must cancel them.
        """
        in_force = self._accounts_of
        answers: list[float | Exception | None] = []
        granted = self.ledger.reserve_all([one for one, _ in wanted])
        for (one, experiment), answer in zip(wanted, granted, strict=True):
            if isinstance(answer, Exception):
                answers.append(answer)
            elif not answer and (in_force is None or not in_force.holds(experiment)):  # refused by a previous file
                answers.append(BudgetsClosed("the accounts of the changed experiment are not set up yet"))
            else:
                answers.append(one.amount if answer else None)
        return answers

    def wanted_again(self, decision: PendingDecision) -> Wanted:
        """Return the reservation that paid for the previous answer to a repeated request; raises BudgetsClosed."""
        self._check_open()
        previous, campaign = decision.previous, decision.request.campaign_id
        assert previous is not None, "there is an answer"
        answer, amount = previous.answer, previous.reserved  # not the present cost cap, which may be another one now
        return Wanted(answer["decision_id"], previous.account, campaign, answer["channel"], amount, decision.key)

    def _check_open(self) -> None:
        if not self.ready:
            raise BudgetsClosed("the ledger is not set up yet")
        if self.settler.full:
            raise BudgetsClosed("too many reservations wait to be settled")

    def set_accounts(self, experiments: Experiments, spool: Spool) -> None:
        """Set the ledger's accounts. The first call also finishes what a crash left open, then permits spending.

        Raises LedgerInUse if another router uses a ledger that can't be shared, LedgerUnavailable if a retry may
        succeed, or ValueError if a limit is too high for this kind of ledger. Blocks.
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
        """Whether the ledger has the accounts of these experiments, so that money may be spent on them."""
        return self._accounts_of is experiments and self.ready

    def expire(self, ttl: float) -> int:
        """Release some reservations older than `ttl` seconds (`Ledger.expire`); returns how many. Blocks."""
        return self.ledger.expire(ttl) if self.ready else 0  # not ready: the costs in the log must be settled first


class Settler:
    """A queue of reservations to settle or cancel, for one event loop. One call of the ledger handles many of them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        # Use separate threads, so that calls that hang do not delay housekeeping such as the kill switch.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="settle")
        self._pending: dict[str, dict[str, float]] = {}
        self._wake = asyncio.Event()

    async def finish(self, waiting: Sequence[tuple[str, Costs]], seconds: float) -> None:
        """Settle the reservations that have costs and cancel the others. After `seconds`, do the rest later."""
        for reservation_id, costs in waiting:
            self._add(reservation_id, costs)
        try:
            async with asyncio.timeout(seconds):
                await self._attempt([reservation_id for reservation_id, _ in waiting])
        except TimeoutError:
            log.warning("the ledger is slow: %d reservations are finished later", len(waiting))
        finally:  # runs even if the caller's request is cancelled at shutdown
            if self._pending:
                self._wake.set()

    def finish_later(self, reservation_id: str, costs: Costs) -> None:
        """Settle a reservation in the background, or cancel it if `costs` is empty."""
        self._add(reservation_id, costs)
        self._wake.set()

    def _add(self, reservation_id: str, costs: Costs) -> None:  # a cancellation does not remove reported costs
        self._pending[reservation_id] = {**self._pending.get(reservation_id, {}), **costs}

    @property
    def pending(self) -> int:
        """Number of reservations that wait."""
        return len(self._pending)

    @property
    def full(self) -> bool:
        """Whether so many reservations wait to be settled that no new one may be made."""
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
        """Try to settle or cancel all waiting reservations; returns whether none is left."""
        waiting = list(self._pending)
        for first in range(0, len(waiting), TOGETHER):
            if not await self._attempt(waiting[first : first + TOGETHER]):  # the ledger does not answer
                break
        return not self._pending

    async def _attempt(self, names: Sequence[str]) -> bool:
        """Try to settle or cancel some reservations; returns False if all of them have failed."""
        some = {name: costs for name in names if (costs := self._pending.get(name)) is not None}
        try:
            failed = await asyncio.get_running_loop().run_in_executor(self._threads, finish, self._ledger, some)
        except Exception as error:
            failed = dict.fromkeys(some, error)
        for name, costs in some.items():
            if name not in failed and self._pending.get(name) is costs:  # otherwise a cost was added meanwhile
                del self._pending[name]
        for name in failed:
            if name in self._pending:  # move it to the end
                self._pending[name] = self._pending.pop(name)
        if failed:
            name, why = next(iter(failed.items()))
            about = {"cause": type(why).__name__, "decision_id": name}
            log.warning("%d reservations to be finished later, %s: %s", len(failed), about["cause"], why, extra=about)
        return not failed or len(failed) < len(some)


class OutcomeIntake:
    """Logs reported outcomes, then settles their costs and releases cancelled reservations. For one event loop.

    A report may have a thousand outcomes. They are handled in small pieces, so that decisions can run in between. Costs
    that the ledger does not settle within `seconds` are settled later. `forget` is a function to call with the id of
    each cancelled decision.
    """

    def __init__(
        self, parser: OutcomeParser, spool: Spool, budgets: Budgets, seconds: float, forget: Callable[[str], None]
    ) -> None:
        self._parser = parser
        self._spool = spool
        self._budgets = budgets
        self._seconds = seconds
        self._forget = forget
        self._turn = asyncio.Lock()  # a fair lock: after each piece, the next waiting report gets its turn

    async def accept(self, body: bytes) -> dict[str, int]:
        """Log a report's outcomes and settle their costs; returns the number of outcomes.

        After BadRequest, nothing was stored. After SpoolUnavailable, the caller must send the whole report again;
        outcomes that were stored already do not count twice.
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
