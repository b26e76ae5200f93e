"""What happens to a decision, from the request to the answer.

    event loop   an arm for the user, or the previous answer of a retried request          `Decider._start`
    thread       features, arm, ledger, log: four calls, in this order                     `Stages.decide`
    event loop   the answer; what the thread has not logged by then is taken over          `Decider._take_of`

A thread of the arm (`lane.py`) takes all that waits through the four stages, with one call of each part for all
(`parts.py`). A fault concerns as few decisions as possible: one user's features, one answer, one reservation, or all
that share the call. A decision that lacks something goes on with the default action, which may cost money and is
logged as any other.

**Time.** A stage may use what is left of the deadline, except for the little that the later stages need
(`Deadline.left`): on a busy machine any stage may be held up for a moment, and seldom all of them. A call that takes
longer is a fault of its part. A stage without time left is not called (`no_time`).

**Late.** A call whose part hangs may not return at all, and a thread can't be stopped. So if a decision has not come
to the log when the ledger's time is over, or is not logged when the log's time is over, the event loop takes it over,
once: what the thread finds later is ignored, and it neither reserves nor logs. The decision is the default action with
the reason of the stage that hangs, without an exposure; its record is written by the log's own thread; and if the
ledger may have reserved money, the money is released. For a Redis that hangs, for instance, the reason is `ledger`.
The circuit breaker then opens: decisions get the same answer without waiting, and their threads take them to the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

from mtorl.experiment.layers import Experiments
from mtorl.log.records import DecisionRecord, FallbackReason, WindowRecord, is_sampled
from serving.decision_log import Spool
from serving.ledger.contract import AlreadyReserved
from serving.router.flow.admission import CURRENT, Deadline
from serving.router.flow.arm_answers import ArmAnswer, fault_of
from serving.router.flow.arms import Arms
from serving.router.flow.budgets import Budgets, BudgetsClosed, NoAccount
from serving.router.flow.features import FeatureReader, ModelInput
from serving.router.flow.idempotency_cache import IdempotencyCache, RequestConflict
from serving.router.flow.lane import Lane
from serving.router.flow.parts import GRACE_SECONDS, Call, CircuitOpen, Decisions, Parts
from serving.router.flow.pending_decision import PendingDecision
from serving.router.flow.requests import DecisionRequest
from serving.router.flow.shadow import Shadow
from serving.router.ops import metrics, tracing
from serving.router.ops.live_experiments import LiveExperiments
from serving.router.ops.metrics import Stage

_NOT_BROKEN = ("no_account", "no_baseline")  # faults of files or requests
WITHDRAWAL_SECONDS = 1.0  # for which a log that hangs holds the money of a withdrawn decision
_HANGS: dict[Stage, FallbackReason] = {
    "features": "features",
    "model": "model_timeout",
    "ledger": "ledger",
    "log": "log",
}
_IN_LOG = ("log", None)  # `PendingDecision.asking`

_T = TypeVar("_T")

log = logging.getLogger(__name__)


class Decider:
    """Takes decisions; an inner fault is the default action and a reason, never an exception.

    For one event loop. `seconds` are the deadline of a request.
    """

    def __init__(
        self, live: LiveExperiments, stages: Stages, budgets: Budgets, spool: Spool, shadow: Shadow, seconds: float
    ) -> None:
        self._live = live
        self._stages = stages
        self._budgets = budgets
        self._spool = spool
        self._shadow = shadow
        self._seconds = seconds
        self._lanes: dict[str, Lane] = {}
        self._lanes_of: Experiments | None = None
        self.cache = IdempotencyCache()
        self._running: set[asyncio.Task[Any]] = set()

    async def decide(self, requests: Sequence[DecisionRequest]) -> list[dict[str, Any]]:
        """One prediction for each request, in order; a repeated request gets its previous answer.

        A decision goes on when its caller gives up: money may be reserved, and others may wait for the same answer.
        Raises RequestConflict if a request has the id of another one: nothing was decided.
        """
        return await asyncio.shield(self._in_background(self._decide(requests)))

    @property
    def at_work(self) -> int:
        """Requests and withdrawals that are not finished."""
        return len(self._running)

    async def drain(self) -> None:
        """Wait for decisions whose callers gave up, and for withdrawals."""
        while self._running:
            await asyncio.wait(self._running)
        for lane in self._lanes.values():
            lane.close()

    async def _decide(self, requests: Sequence[DecisionRequest]) -> list[dict[str, Any]]:
        deadline = CURRENT.get() or Deadline(self._seconds)
        answers: list[asyncio.Future[dict[str, Any]] | PendingDecision] = []
        try:
            for request in requests:
                answers.append(self._start(request, deadline))
        except RequestConflict as error:
            self.cache.give_up(answer.key for answer in answers if isinstance(answer, PendingDecision))
            raise RequestConflict(f"instances[{len(answers)}]: {error}") from None
        begun = [answer for answer in answers if isinstance(answer, PendingDecision)]
        new = [decision for decision in begun if decision.before is None]
        work = [self._repeat(decision) for decision in begun if decision.before is not None]
        await _all([self._take(new), *work] if new else work)
        # An answer that another request is working on comes by the other's deadline, which began earlier.
        return [
            answer.prediction() if isinstance(answer, PendingDecision) else await asyncio.shield(answer)
            for answer in answers
        ]

    def _start(self, request: DecisionRequest, deadline: Deadline) -> asyncio.Future[dict[str, Any]] | PendingDecision:
        """The answer to a request that is being decided, or a decision, whose `before` may be the answer."""
        experiment = self._live.experiments.deciding(request.user_id, request.campaign_id)
        decision = PendingDecision.start(request, experiment, self._spool.identity, deadline)
        if decision.key is not None:
            answer = self.cache.repeat(decision.key, request.content)
            if isinstance(answer, asyncio.Future):
                metrics.REPEATED.inc()
                return answer
            decision.before = answer
            self.cache.begin(decision.key, request.content)
        return decision

    async def _repeat(self, decision: PendingDecision) -> None:
        """Give the previous answer or, if its money was released (through another router, even), decide anew."""
        assert decision.before is not None and decision.key is not None, "it was remembered under a key"
        answer = decision.before.answer
        if bug := await self._work(self._lane("repeats", self._stages.check_repeats), [decision]):
            log.error("a repeated answer was not checked", exc_info=bug, extra=decision.ids(type(bug).__name__))
        if decision.done:
            decision.done = False
            await self._take([decision])
        else:
            metrics.REPEATED.inc()
            self.cache.give_again(decision.key, answer)

    async def _take(self, decisions: Decisions) -> None:
        by_arm: dict[str, list[PendingDecision]] = {}
        for decision in decisions:
            by_arm.setdefault(decision.experiment.key(decision.arm), []).append(decision)
        await _all(self._take_of(arm, of_arm) for arm, of_arm in by_arm.items())
        for decision in decisions:
            self._count(decision)
            if decision.key is not None:
                self.cache.give(decision.key, decision.prediction(), decision.reserved or 0.0, decision.account)
        tracing.note(lambda: decisions[0].traits() if len(decisions) == 1 else {"decisions": len(decisions)})
        self._shadow.offer(decisions)

    async def _take_of(self, arm: str, decisions: Decisions) -> None:
        """Have a thread of the arm decide; what it has not logged in time is withdrawn."""
        bug = await self._work(self._lane(arm, self._stages.decide), decisions)
        records = []
        for decision in decisions:
            if decision.taken_over:
                records.append(self._withdraw(decision, bug))
            elif decision.may_be_reserved:
                self._budgets.settler.finish_later(decision.decision_id, {})
        if owed := [record for record in records if record is not None]:
            await _durable(owed, decisions[0].deadline.left("log"))

    async def _work(self, lane: Lane, decisions: Decisions) -> Exception | None:
        """Have a thread work on decisions, and take over what is not done in time; returns a bug that ended it."""
        deadline = decisions[0].deadline
        ended = lane.put(decisions)
        await asyncio.wait([ended], timeout=deadline.left("ledger") + GRACE_SECONDS)
        if not ended.done() and any(decision.asking == _IN_LOG for decision in decisions):
            await asyncio.wait([ended], timeout=deadline.left("log") + GRACE_SECONDS)
        bug = ended.result() if ended.done() else None
        late = [decision for decision in decisions if decision.take_over()]
        if bug is None and (asking := next((decision.asking for decision in late if decision.asking), None)):
            self._stages.parts.report(*asking, TimeoutError("it did not answer in time"))
        lane.begin()  # a thread that hangs leaves its place to another one
        return bug

    def _lane(self, name: str, work: Callable[[Decisions], None]) -> Lane:
        if self._lanes_of is not self._live.experiments:
            self._lanes_of = self._live.experiments
            for idle in [name for name, lane in self._lanes.items() if not lane.busy]:  # some arms may be gone
                self._lanes.pop(idle).close()
        if name not in self._lanes:
            self._lanes[name] = Lane(name, work)
        return self._lanes[name]

    def _withdraw(self, decision: PendingDecision, bug: Exception | None) -> Future[None] | None:
        """Take the default action after all; returns when its record is durable, unless the log is what failed."""
        stage = decision.asking and decision.asking[0]
        fault = decision.failed if bug is None else ("internal", bug)
        # After a bug, the ledger's answer may be lost: a release is harmless where nothing is reserved.
        release = decision.expose or stage == "ledger" or decision.may_be_reserved or (fault and fault[0] == "internal")
        # An earlier record may become durable yet: this one says that nothing was shown.
        decision.withdrawn = fault is not None or stage == "log"
        if fault is None and stage is not None:
            fault = _HANGS[stage], TimeoutError(f"the stage {stage} did not end in time")
        elif fault is None and not decision.complete:
            fault = "no_time", TimeoutError("no thread was free in time")
        if fault is not None:
            decision.fall_back(*fault)
        written = None
        try:
            written = self._spool.submit("decision", decision.record(), owed=True)
        except Exception as error:
            decision.fall_back("internal", error)  # not even a record can be made
        if release:
            self._in_background(self._give_back(decision.decision_id, written))
        return None if decision.fault == "log" else written

    async def _give_back(self, decision_id: str, written: Future[None] | None) -> None:
        """Release the money once the log says that nothing was shown, or a log that hangs has had its time.

        In the other order, a process that is killed in between leaves an exposure in the log that nothing pays for.
        """
        if written is not None:
            await _durable([written], WITHDRAWAL_SECONDS)
        self._budgets.settler.finish_later(decision_id, {})

    def _count(self, decision: PendingDecision) -> None:
        account = decision.account
        if not decision.override:  # overrides are not paced
            self._budgets.pacer.count(account, decision.request.campaign_id, decision.taken)
        metrics.of_arm(metrics.DECISIONS, account, expose=str(decision.expose).lower()).inc()
        metrics.of_arm(metrics.DECISION_LATENCY, account).observe(decision.deadline.elapsed())
        if (channel := decision.chosen_channel) is not None:
            metrics.of_arm(metrics.DRAWN_CHANNELS, account, channel=channel).inc()
        if decision.fault:
            if decision.fault not in _NOT_BROKEN:
                decision.deadline.failed = not decision.deadline.late
            metrics.of_arm(metrics.FALLBACKS, account, reason=decision.fault).inc()

    def _in_background(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task


async def _durable(records: Sequence[Future[None]], seconds: float) -> None:
    """Wait until the log has written records, or has failed to, but no longer than that."""
    all_of_them = asyncio.gather(*map(asyncio.wrap_future, records), return_exceptions=True)
    await asyncio.wait([all_of_them], timeout=seconds)


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all concurrently; a single one, the usual case, without a task of its own."""
    parts = list(work)
    if len(parts) == 1:
        await parts[0]
    else:
        await asyncio.gather(*parts)


class Stages:
    """The stages of a decision, for the threads of lanes; windows of `window_share` of the users are logged."""

    def __init__(
        self, reader: FeatureReader, arms: Arms, budgets: Budgets, spool: Spool, parts: Parts, window_share: float
    ) -> None:
        self._reader = reader
        self._arms = arms
        self._budgets = budgets
        self._spool = spool
        self._window_share = window_share
        self.parts = parts

    def decide(self, decisions: Decisions) -> None:
        """Take decisions of an arm through the four stages."""
        self._read_features(decisions)
        for _, of_one in groupby(decisions, key=lambda decision: id(decision.experiment)):  # its file may have changed
            self._ask_arm(list(of_one))
        self._reserve(decisions)
        self._log(decisions)

    def _read_features(self, decisions: Decisions) -> None:
        def take(decision: PendingDecision, found: ModelInput | Exception) -> None:
            if not isinstance(found, Exception):
                decision.features = found
                metrics.FEATURES.labels("yes" if found.has_history else "no").inc()
            elif decision.policy.policy is None:  # a policy without a server reports itself that it needs features
                decision.fall_back("features", found)

        self.parts.ask(
            "features", "features", decisions, lambda decision: decision.request, _plain(self._reader.read), take
        )

    def _ask_arm(self, decisions: Decisions) -> None:
        experiment, arm = decisions[0].experiment, decisions[0].policy

        def item(decision: PendingDecision) -> dict[str, Any]:
            decision.prices = self._budgets.pacer.prices(decision.account, decision.request.campaign_id)
            return decision.item()

        def take(decision: PendingDecision, answer: ArmAnswer | Exception) -> None:
            if isinstance(answer, Exception):
                reason, cause = fault_of(answer)
                decision.fall_back(reason, answer, cause)
            else:
                decision.take(answer)

        needing = [decision for decision in decisions if not decision.fault]
        self.parts.ask("model", experiment.key(arm.name), needing, item, partial(self._arms.ask, experiment, arm), take)

    def _reserve(self, decisions: Decisions) -> None:
        def take(decision: PendingDecision, reserved: float | Exception | None) -> None:
            if not isinstance(reserved, Exception):
                decision.reserved = reserved
                decision.budget_exhausted = reserved is None
            elif isinstance(reserved, NoAccount):
                decision.fall_back("no_account", reserved)
            elif isinstance(reserved, AlreadyReserved):
                decision.fall_back("repeated", reserved)  # with nothing to release: the money is another decision's
            else:
                decision.fall_back("ledger", reserved)
                decision.may_be_reserved = not isinstance(reserved, BudgetsClosed | CircuitOpen)

        exposing = [decision for decision in decisions if decision.action.expose]  # also by the default action
        self.parts.ask("ledger", None, exposing, self._budgets.wanted, _plain(self._budgets.reserve), take)

    def _log(self, decisions: Decisions) -> None:
        def records(decision: PendingDecision) -> tuple[DecisionRecord, WindowRecord | None]:
            made = decision.record()
            return made, decision.window_record() if is_sampled(made["unit_hash"], self._window_share) else None

        def write(made: Sequence[Any], seconds: float, _: object) -> Sequence[None]:
            self._spool.write("decision", [record for record, _ in made], seconds)
            if windows := [window for _, window in made if window is not None]:
                self._spool.submit_later("window", *windows)
            metrics.SPOOL_RECORDS.inc(len(made))
            return [None] * len(made)

        def take(decision: PendingDecision, fault: Exception | None) -> None:
            if fault is None:
                decision.done = True
            else:
                decision.failed = "log", fault

        self.parts.ask("log", None, decisions, records, write, take)

    def check_repeats(self, decisions: Decisions) -> None:
        """Drop the previous answers whose money is neither reserved nor spent any more (`PendingDecision.before`).

        If the ledger does not answer, the answer is repeated. That reserves nothing, so "no ledger, no spend" holds:
        the money was reserved, the first answer may have been acted on, and callers retry just when parts are away.
        """

        def take(decision: PendingDecision, paid: bool | Exception) -> None:
            if isinstance(paid, Exception):
                about = decision.ids(type(paid).__name__)
                log.warning("an exposure is repeated without the ledger, %s: %s", about["cause"], paid, extra=about)
            elif not paid:
                decision.before, decision.done = None, True

        self.parts.ask("ledger", None, decisions, self._budgets.wanted_before, _plain(self._budgets.still_pay), take)


def _plain(call: Callable[[Any], Sequence[Any]]) -> Call:
    """A call that has its own time limit and sends no trace."""
    return lambda questions, seconds, spans: call(questions)
