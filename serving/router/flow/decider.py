"""Starts and ends decisions on the event loop; in between, a lane's thread takes them through the stages."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from mtorl.experiment.layers import Experiments
from mtorl.log.records import FallbackReason
from serving.decision_log import Spool, SpoolUnavailable
from serving.router.flow.admission import CURRENT, Deadline
from serving.router.flow.budgets import Budgets
from serving.router.flow.idempotency_cache import IdempotencyCache, RequestConflict
from serving.router.flow.lane import Job, Lane, NotCalled
from serving.router.flow.pending_decision import PendingDecision
from serving.router.flow.requests import DecisionRequest
from serving.router.flow.shadow import Shadow
from serving.router.flow.stages import Decisions, Pipeline, fall_back
from serving.router.ops import metrics, tracing
from serving.router.ops.live_experiments import LiveExperiments

_NOT_BROKEN = ("no_account", "no_baseline")  # faults of files or requests
WITHDRAWAL_SECONDS = 1.0  # for which a log that hangs holds the money of a withdrawn decision
_LATE = "late"  # the lane of jobs that were taken over; keys of arms start with the experiment's name

_T = TypeVar("_T")

log = logging.getLogger(__name__)


class Decider:
    """Takes decisions; an inner fault is the default action and a reason, never an exception.

    `repeats` has the stages of a repeated exposure; `seconds` are the deadline of a request.
    """

    def __init__(
        self,
        live: LiveExperiments,
        pipeline: Pipeline,
        repeats: Pipeline,
        budgets: Budgets,
        spool: Spool,
        seconds: float,
        shadow: Shadow,
    ) -> None:
        self._live = live
        self._pipeline = pipeline
        self._repeats = repeats
        self._budgets = budgets
        self._spool = spool
        self._seconds = seconds
        self._shadow = shadow
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
        decision = PendingDecision.start(
            request,
            self._live.experiments.deciding(request.user_id, request.campaign_id),
            self._spool.identity,
            deadline,
        )
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
        try:
            await self._walk("repeats", self._repeats, Job([decision], "ledger"))
        except Exception as error:  # a bug: as if the ledger did not answer
            log.exception("a repeated answer was not checked", extra=decision.ids(type(error).__name__))
        if decision.before is not None:
            metrics.REPEATED.inc()
            self.cache.give_again(decision.key, answer)
        else:
            await self._take([decision])

    async def _take(self, decisions: Decisions) -> None:
        try:
            by_arm: dict[str, list[PendingDecision]] = {}
            for decision in decisions:
                by_arm.setdefault(decision.experiment.key(decision.arm), []).append(decision)
            await _all(self._walk(arm, self._pipeline, Job(those)) for arm, those in by_arm.items())
            for decision in decisions:
                if decision.unlogged is not None:
                    self._withdraw(decision, "log", decision.unlogged)
        except Exception as error:  # a bug: all who wait for this answer get the default action
            log.exception("a decision failed", extra=decisions[0].ids(type(error).__name__))
            for decision in decisions:
                with contextlib.suppress(Exception):  # if not even a record can be made
                    self._withdraw(decision, "internal", error)
        self._count(decisions)
        for decision in decisions:
            if decision.key is not None:
                self.cache.give(decision.key, decision.prediction(), decision.reserved or 0.0, decision.account)
        tracing.note(lambda: decisions[0].traits() if len(decisions) == 1 else {"decisions": len(decisions)})
        self._shadow.offer(decisions)

    async def _walk(self, lane: str, pipeline: Pipeline, job: Job) -> None:
        try:
            while True:
                try:
                    return await self._lane(lane, pipeline).put(job)
                except (NotCalled, TimeoutError) as why:
                    if (following := pipeline.give_up(job, why)) is None:
                        return
                    lane, job = _LATE, Job(job.decisions, following)
        finally:
            for decision in job.decisions:
                if decision.may_be_reserved:
                    self._budgets.settler.finish_later(decision.decision_id, {})

    def _lane(self, name: str, pipeline: Pipeline) -> Lane:
        if self._lanes_of is not self._live.experiments:
            self._lanes_of = self._live.experiments
            for idle in [name for name, lane in self._lanes.items() if not lane.busy]:  # some arms may be gone
                self._lanes.pop(idle).close()
        if name not in self._lanes:
            self._lanes[name] = Lane(name, pipeline)
        return self._lanes[name]

    def _count(self, decisions: Decisions) -> None:
        for decision in decisions:
            if not decision.override:  # overrides are not paced
                self._budgets.pacer.count(decision.account, decision.request.campaign_id, decision.taken)
            arm = metrics.arm_labels(decision.account)
            metrics.DECISIONS.labels(*arm, str(decision.expose).lower()).inc()
            metrics.DECISION_LATENCY.labels(*arm).observe(decision.deadline.elapsed())
            if (channel := decision.chosen_channel) is not None:
                metrics.DRAWN_CHANNELS.labels(*arm, channel).inc()
            if decision.fault:
                if decision.fault not in _NOT_BROKEN:
                    decision.deadline.failed = not decision.deadline.late
                metrics.FALLBACKS.labels(*arm, decision.fault).inc()

    def _withdraw(self, decision: PendingDecision, reason: FallbackReason, why: Exception) -> None:
        """Take the default action after all, also if something is reserved or on its way to the log."""
        # After a bug, the ledger's answer may be lost: a release is harmless where nothing is reserved.
        exposing, written = decision.expose or reason == "internal", None
        fall_back([decision], reason, why)
        # The first record may become durable yet; the second one says that nothing was shown.
        decision.withdrawn = True
        try:
            written = self._spool.submit("decision", decision.record(), owed=True)
        finally:
            if exposing:
                self._in_background(self._give_back(decision.decision_id, written))

    async def _give_back(self, decision_id: str, written: Future[None] | None) -> None:
        """Release the money once the log says that nothing was shown, or a log that hangs has had its time.

        In the other order, a process that is killed in between leaves an exposure in the log that nothing pays for.
        """
        if written is not None:
            with contextlib.suppress(SpoolUnavailable, TimeoutError):
                async with asyncio.timeout(WITHDRAWAL_SECONDS):
                    await asyncio.shield(asyncio.wrap_future(written))  # else the timeout would cancel the record
        self._budgets.settler.finish_later(decision_id, {})

    def _in_background(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all concurrently; a single one, the usual case, without a task of its own."""
    parts = list(work)
    if len(parts) == 1:
        await parts[0]
    else:
        for result in await asyncio.gather(*parts, return_exceptions=True):  # all have ended before one raises
            if isinstance(result, BaseException):
                raise result
