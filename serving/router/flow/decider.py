"""Takes a decision from the request to the answer.

    event loop   an arm for the user, or the previous answer of a retried request          `Decider._start`
    thread       features, arm, ledger, log: four calls, in this order                     `Stages.decide`
    event loop   the answer, after taking over decisions that are not logged in time       `Decider._decide_in_lane`

Each arm has a *lane*, a queue with threads. A thread takes all decisions that wait in its lane through the four stages,
with one call of a part per stage (`stages.py`). A fault affects as few decisions as possible: one user's features, one
answer, one reservation, or all decisions that share a call. After a fault, a decision continues with the default
action, which may cost money and is logged like any other.

**Time.** A stage may use the rest of the deadline, except for the short time that later stages need (`Deadline.left`).
On a busy host, any stage may be delayed for a moment, but rarely all of them. A call that takes longer is a fault of
its part. A stage without time left is not called (`no_time`).

**Late.** A call that hangs may never return, and a thread can't be stopped. So the event loop takes a decision over if
it has not reached the stage `log` at the ledger's time limit, or is not logged at the log's. The thread's results are
then ignored. The caller gets the default action without an exposure, with the hanging stage as the reason. The log's
own thread writes the record, and money that the ledger may have reserved is released.

**If the ledger's Redis hangs**, callers of all arms get this answer at the ledger's time limit, with the reason
`ledger`. After 20 such failures, or while three calls hang, the circuit breaker is open (`stages.py`): further
decisions get the same answer at once, and their threads log them. Every .25 s, one call tests the ledger, and its
first answer closes the circuit breaker. If the online store's Redis hangs, the reason is `features`.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Any

from mtorl.experiment.layers import Experiments
from serving.decision_log import Spool
from serving.router.flow.admission import CURRENT, Deadline
from serving.router.flow.budgets import Budgets
from serving.router.flow.idempotency_cache import IdempotencyCache, RequestConflict
from serving.router.flow.pending_decision import PendingDecision
from serving.router.flow.requests import DecisionRequest
from serving.router.flow.stages import GRACE_SECONDS, Decisions, Stages
from serving.router.messages import REQUEST_ID_REUSED
from serving.router.ops import metrics, tracing
from serving.router.ops.live_experiments import LiveExperiments

WITHDRAWAL_SECONDS = 1.0  # longest wait for the log before money is released
MOST_SHADOWS = 256  # most decisions that wait for a challenger at the stage `shadow`
_NOT_BROKEN = ("no_account", "no_baseline")  # fallback reasons that are not the fault of a store or arm
_AT_ONCE = 2  # most batches of a lane in progress
_SECOND_SECONDS = 0.01  # delay of the second batch, so that it is larger
_THREADS = 10  # per lane; more than the circuit breaker (`stages.py`) lets hang
_LARGEST = 64  # approximate size of a batch

_Work = Callable[[Decisions], None]
_Waiting = tuple[Decisions, asyncio.Future[Exception | None]]
"""The decisions of a request, and a future that gets None when their thread ends, or the exception with which it
failed."""

log = logging.getLogger(__name__)


class Decider:
    """Makes all decisions, in one event loop. After an internal error, the default action is taken.

    `seconds` is the deadline of a request.
    """

    def __init__(self, live: LiveExperiments, stages: Stages, budgets: Budgets, spool: Spool, seconds: float) -> None:
        self._live = live
        self._stages = stages
        self._budgets = budgets
        self._spool = spool
        self._seconds = seconds
        self._lanes: dict[str, Lane] = {}
        self._lanes_of: Experiments | None = None
        self.cache = IdempotencyCache()
        self._running: set[asyncio.Task[Any]] = set()

    async def decide(self, requests: Sequence[DecisionRequest]) -> list[dict[str, Any]]:
        """Decide on requests; returns a prediction for each. A repeated request gets its previous answer.

        If the caller disconnects, the decisions are finished nevertheless, because money may be reserved. If
        RequestConflict is raised, nothing is decided.
        """
        answers: list[dict[str, Any]] = await asyncio.shield(self._in_background(self._decide(requests)))
        return answers

    @property
    def at_work(self) -> int:
        """Number of requests and withdrawals that are still in progress."""
        return len(self._running)

    async def drain(self) -> None:
        """Wait for withdrawals, and for decisions whose callers have disconnected."""
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
        except RequestConflict:
            self.cache.release(answer.key for answer in answers if isinstance(answer, PendingDecision))
            raise RequestConflict(REQUEST_ID_REUSED(where=f"instances[{len(answers)}]")) from None
        if begun := [answer for answer in answers if isinstance(answer, PendingDecision)]:
            await self._decide_in_lanes(begun)
        # Another request's earlier deadline limits the wait.
        return [
            answer.prediction() if isinstance(answer, PendingDecision) else await asyncio.shield(answer)
            for answer in answers
        ]

    def _start(self, request: DecisionRequest, deadline: Deadline) -> asyncio.Future[dict[str, Any]] | PendingDecision:
        """Return a new decision or, for a retried request, the answer's future or a decision with `previous`."""
        experiment = self._live.experiments.deciding(request.user_id, request.campaign_id)
        decision = PendingDecision.start(request, experiment, self._spool.identity, deadline)
        if decision.key is not None:
            found = self.cache.claim(decision.key, request.content)
            if isinstance(found, asyncio.Future):
                metrics.REPEATED.inc()
                return found
            decision.previous = found
        return decision

    async def _decide_in_lanes(self, decisions: Decisions) -> None:
        by_lane: dict[str, list[PendingDecision]] = {}
        for decision in decisions:
            name = decision.experiment.key(decision.arm) if decision.previous is None else "repeats"
            by_lane.setdefault(name, []).append(decision)
        await _all(self._decide_in_lane(name, some) for name, some in by_lane.items())
        for decision in decisions:
            if decision.previous is not None:
                metrics.REPEATED.inc()
                self.cache.repeat(decision.previous)
                continue
            self._count(decision)
            if decision.key is not None:
                self.cache.complete(decision.key, decision.prediction(), decision.reserved or 0.0, decision.account)
        if new := [decision for decision in decisions if decision.previous is None]:
            tracing.note(lambda: new[0].traits() if len(new) == 1 else {"decisions": len(new)})
            self._call_shadows(new)

    async def _decide_in_lane(self, name: str, decisions: Decisions) -> None:
        """Let a thread decide, and take over the decisions that are not logged in time."""
        deadline, lane = decisions[0].deadline, self._lane(name, self._stages.decide)
        ended = lane.put(decisions)
        await asyncio.wait([ended], timeout=deadline.left("ledger") + GRACE_SECONDS)
        if not ended.done() and any(decision.asking == ("log", None) for decision in decisions):
            await asyncio.wait([ended], timeout=deadline.left("log") + GRACE_SECONDS)
        bug = ended.result() if ended.done() else None
        late = [decision for decision in decisions if decision.take_over()]
        if bug is not None:
            log.error("a thread of %s has failed", name, exc_info=bug, extra=decisions[0].ids(type(bug).__name__))
        elif asking := next((one.asking for one in late if one.asking and one.failed is None), None):
            self._stages.parts.report(*asking, TimeoutError("it did not answer in time"))
        lane.begin()  # if the thread hangs, another one may begin now
        # A repeated answer was logged when it was first given.
        written = [self._finish_late(decision, bug) for decision in late if decision.previous is None]
        for decision in decisions:
            if decision.may_be_reserved and not decision.taken_over:
                self._budgets.settler.finish_later(decision.decision_id, {})
        if owed := [record for record in written if record is not None]:
            await _durable(owed, deadline.left("log"))

    def _finish_late(self, decision: PendingDecision, bug: Exception | None) -> Future[None] | None:
        """Log a taken-over decision; returns the pending write."""
        stage = decision.asking and decision.asking[0]
        release = decision.expose or decision.may_be_reserved or stage == "ledger"
        fault = decision.failed if bug is None else ("internal", bug)
        # The thread may still log an exposure, which this record then replaces.
        decision.withdrawn = fault is not None or stage == "log"
        if fault is None and stage is not None:
            late = TimeoutError(f"the stage {stage} did not end in time")
            fault = "model_timeout" if stage == "model" else stage, late
        elif fault is None and not decision.complete:
            fault = "no_time", TimeoutError("no thread was free in time")
        if fault is not None:
            decision.fall_back(*fault)
        written = None
        try:
            written = self._spool.submit("decision", decision.record(), owed=True)
        except Exception as error:
            decision.fall_back("internal", error)
        if release:
            self._in_background(self._release(decision.decision_id, written))
        return None if decision.fault == "log" else written

    async def _release(self, decision_id: str, written: Future[None] | None) -> None:
        """Release a decision's money after a record in the log has withdrawn the decision.

        In the reverse order, a crash in between would leave an exposure in the log without money for it.
        """
        if written is not None:
            await _durable([written], WITHDRAWAL_SECONDS)
        self._budgets.settler.finish_later(decision_id, {})

    def _count(self, decision: PendingDecision) -> None:
        account = decision.account
        if not decision.override:
            answer = decision.policy_answer
            forecast = (None, None) if answer is None else (answer.expected_reward, answer.expected_cost)
            self._budgets.pacer.count(account, decision.request.campaign_id, *forecast)
        metrics.of_arm(metrics.DECISIONS, account, expose=str(decision.expose).lower()).inc()
        metrics.of_arm(metrics.DECISION_LATENCY, account).observe(decision.deadline.elapsed())
        if (channel := decision.chosen_channel) is not None:
            metrics.of_arm(metrics.DRAWN_CHANNELS, account, channel=channel).inc()
        if decision.fault:
            if decision.fault not in _NOT_BROKEN:
                decision.deadline.failed = not decision.deadline.late
            metrics.of_arm(metrics.FALLBACKS, account, reason=decision.fault).inc()

    def _call_shadows(self, decisions: Decisions) -> None:
        """Queue these decisions for challengers at the stage `shadow`."""
        by_arm: dict[str, list[PendingDecision]] = {}
        for decision in decisions:
            for shadow in decision.shadows():
                by_arm.setdefault(shadow.experiment.key(shadow.arm), []).append(shadow)
        for arm, shadows in by_arm.items():
            lane = self._lane(f"shadow of {arm}", self._stages.shadow)
            if lane.waiting + len(shadows) <= MOST_SHADOWS:
                lane.put(shadows)
            else:
                metrics.of_arm(metrics.SHADOW, arm, result="dropped").inc(len(shadows))

    def _lane(self, name: str, work: _Work) -> "Lane":
        if self._lanes_of is not self._live.experiments:
            self._lanes_of = self._live.experiments
            for idle in [name for name, lane in self._lanes.items() if not lane.busy]:  # arms may have been removed
                self._lanes.pop(idle).close()
        if name not in self._lanes:
            self._lanes[name] = Lane(name, work)
        return self._lanes[name]

    def _in_background(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task


async def _durable(records: Sequence[Future[None]], seconds: float) -> None:
    all_of_them = asyncio.gather(*map(asyncio.wrap_future, records), return_exceptions=True)
    await asyncio.wait([all_of_them], timeout=seconds)


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run coroutines concurrently, without a new asyncio task for a single one."""
    parts = list(work)
    if len(parts) == 1:
        await parts[0]
    else:
        await asyncio.gather(*parts)


class Lane:
    """The queue and the threads that make the decisions of one arm, in batches.

    An arm that hangs blocks only its own lane. A lane may be used from one event loop only.
    """

    def __init__(self, name: str, work: _Work) -> None:
        self._work = work
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix=name)
        self._waiting: deque[_Waiting] = deque()
        self._batches: list[list[_Waiting]] = []
        self._since = 0.0
        self._second: asyncio.TimerHandle | None = None

    def put(self, decisions: Decisions) -> asyncio.Future[Exception | None]:
        """Queue decisions; returns a future of None or of their thread's exception."""
        done: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((decisions, done))
        self.begin()
        return done

    def begin(self) -> None:
        """Start as many batches as `_AT_ONCE` and `_THREADS` permit."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            hanging = sum(
                all(one.taken_over or one.done for some, _ in batch for one in some) for batch in self._batches
            )
            at_work = len(self._batches) - hanging
            if at_work >= min(_AT_ONCE, _THREADS - hanging):
                return
            if at_work and (left := self._since + _SECOND_SECONDS - monotonic()) > 0:
                if self._second is None:
                    self._second = loop.call_later(left, self._begin_second)
                return
            batch: list[_Waiting] = []
            decisions: list[PendingDecision] = []
            while self._waiting and len(decisions) < _LARGEST:
                waiting = self._waiting.popleft()
                if not waiting[0][0].taken_over:
                    batch.append(waiting)
                    decisions.extend(waiting[0])
            if batch:
                self._since = monotonic()
                self._batches.append(batch)
                try:
                    self._pool.submit(self._run, batch, decisions, loop)
                except RuntimeError as error:  # the process can't start another thread
                    self._end(batch, error)

    @property
    def waiting(self) -> int:
        """Number of decisions that wait for a thread."""
        return sum(len(decisions) for decisions, _ in self._waiting)

    @property
    def busy(self) -> bool:
        """Whether decisions wait or are in a thread."""
        return bool(self._waiting or self._batches)

    def close(self) -> None:
        """Let the threads exit, without waiting for threads that hang."""
        self._pool.shutdown(wait=False)

    def _begin_second(self) -> None:
        self._second = None
        self.begin()

    def _run(self, batch: list[_Waiting], decisions: Decisions, loop: asyncio.AbstractEventLoop) -> None:
        bug = None
        try:
            self._work(decisions)
        except Exception as error:
            bug = error
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            loop.call_soon_threadsafe(self._end, batch, bug)

    def _end(self, batch: list[_Waiting], bug: Exception | None) -> None:
        if batch in self._batches:  # false if the pool ran the batch after an error
            self._batches.remove(batch)
            for _, done in batch:
                done.set_result(bug)
        self.begin()
