"""Reserves money before an ad is shown, charges the reported cost, and releases the money if no ad was shown."""

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
MOST_PENDING = 100_000  # if so many reservations (20 MB) wait, no new ones are made
_LATE_SECONDS = 7 * 86_400.0  # an outcome is late if its decision is older
_PIECE = 50  # most outcomes handled at once, which takes a few milliseconds

log = logging.getLogger(__name__)


class BudgetsClosed(RuntimeError):
    """Raised if nothing can be reserved now."""


class NoAccount(RuntimeError):
    """Raised if the experiment has no budget for a campaign and channel."""


class Budgets:
    """Reserves money in a ledger. Threads and an event loop may use it at the same time.

    `cost_cap` is the largest amount in currency units that one exposure may reserve, by channel.
    """

    def __init__(self, ledger: Ledger, cost_cap: Mapping[str, float]) -> None:
        self.ledger = ledger
        self.cost_cap = cost_cap
        self.settler = Settler(ledger)
        self._accounts_of: Experiments | None = None
        self._accounts: frozenset[tuple[str, str, str]] = frozenset()  # arm, campaign and channel of each account
        self.ready = False  # False until `set_accounts` has settled the costs in the log
        self.pacer = Pacer(ledger, cost_cap)

    def wanted(self, decision: PendingDecision) -> tuple[Wanted, Experiment]:
        """Return a decision's reservation and experiment; raises BudgetsClosed or NoAccount."""
        self._check_open()
        campaign, channel = decision.request.campaign_id, decision.action.channel
        if not any((decision.account, c, x) in self._accounts for c in (campaign, "*") for x in (channel, "*")):
            raise NoAccount(f"the experiment has no budget for campaign {campaign!r} and channel {channel!r}")
        amount = min(decision.request.costs.get(channel, math.inf), self.cost_cap[channel])
        wanted = Wanted(decision.decision_id, decision.account, campaign, channel, amount, decision.key)
        return wanted, decision.experiment

    def reserve(self, wanted: Sequence[tuple[Wanted, Experiment]]) -> list[float | Exception | None]:
        """Make reservations with one blocking call of the ledger.

        For each item, the result is the reserved amount in currency units, None if too little money is left, or an
        error. After LedgerUnavailable, the caller must cancel the reservations, because some may exist.
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
        """Return the reservation for the previous answer to a request; raises BudgetsClosed."""
        self._check_open()
        previous, campaign = decision.previous, decision.request.campaign_id
        assert previous is not None, "there is an answer"
        answer, amount = previous.answer, previous.reserved  # the cost cap may have changed since
        return Wanted(answer["decision_id"], previous.account, campaign, answer["channel"], amount, decision.key)

    def _check_open(self) -> None:
        if not self.ready:
            raise BudgetsClosed("the ledger is not set up yet")
        if self.settler.full:
            raise BudgetsClosed("too many reservations wait to be settled")

    def set_accounts(self, experiments: Experiments, spool: Spool) -> None:
        """Set the ledger's accounts. The first call also charges or releases the reservations that a crash left open.

        Raises:
            LedgerInUse: Another router uses a ledger that can't be shared.
            LedgerUnavailable: A retry may succeed.
            ValueError: A limit is too high for this ledger.
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
        """Whether the ledger has the accounts of these experiments."""
        return self._accounts_of is experiments and self.ready

    def expire(self, ttl: float) -> int:
        """Release some reservations older than `ttl` seconds; returns how many. Blocks."""
        return self.ledger.expire(ttl) if self.ready else 0  # the costs in the log must be settled first


class Settler:
    """A queue of reservations to settle or cancel, for one event loop."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        # Calls that hang must not delay the kill switch.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="settle")
        self._pending: dict[str, dict[str, float]] = {}
        self._wake = asyncio.Event()

    async def finish(self, waiting: Sequence[tuple[str, Costs]], seconds: float) -> None:
        """Settle reservations that have costs, and cancel the others; after `seconds`, in the background."""
        for reservation_id, costs in waiting:
            self._add(reservation_id, costs)
        try:
            async with asyncio.timeout(seconds):
                await self._attempt([reservation_id for reservation_id, _ in waiting])
        except TimeoutError:
            log.warning("the ledger is slow: %d reservations are finished later", len(waiting))
        finally:  # runs even if the request is cancelled at shutdown
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
        """Number of waiting reservations."""
        return len(self._pending)

    @property
    def full(self) -> bool:
        """Whether too many reservations wait to be settled."""
        return self.pending >= MOST_PENDING

    async def run(self) -> None:
        """Settle and cancel reservations in the background, forever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not await self.flush():
                await asyncio.sleep(RETRY_SECONDS)
                self._wake.set()

    async def flush(self) -> bool:
        """Finish all waiting reservations; returns whether none is left."""
        waiting = list(self._pending)
        for first in range(0, len(waiting), TOGETHER):
            if not await self._attempt(waiting[first : first + TOGETHER]):  # the ledger does not answer
                break
        return not self._pending

    async def _attempt(self, names: Sequence[str]) -> bool:
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
    """Logs reported outcomes, charges their costs, and releases the money of cancelled decisions.

    Outcomes are handled in small pieces, so that decisions can be made in between. `forget` is called with the id of
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
        self._turn = asyncio.Lock()  # a fair lock, so that reports take turns

    async def accept(self, body: bytes) -> dict[str, int]:
        """Log a report's outcomes and charge their costs; returns the number of outcomes.

        BadRequest is raised before anything is stored. After SpoolUnavailable, the caller must repeat the whole report.
        An outcome that was already stored does not count twice.
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
