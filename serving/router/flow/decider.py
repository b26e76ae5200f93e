"""The decision flow. Each stage works on all drafts of a request at once and leaves a fault on those that it failed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from mtorl.log.dataset import DatasetSpec
from mtorl.window.window import instance_from_history
from serving.decision_log import Spool, SpoolUnavailable
from serving.ledger import AlreadyReserved, Ledger, Wanted
from serving.router.flow.admission import VISIT
from serving.router.flow.arms import ArmError, Arms
from serving.router.flow.breaker import Breaker
from serving.router.flow.deadline import Deadline
from serving.router.flow.drills import Drills
from serving.router.flow.features import FeatureReader
from serving.router.flow.idempotency_cache import Answers
from serving.router.flow.micro_batcher import Gathered, in_threads
from serving.router.flow.pacer import Pacer
from serving.router.flow.pending_decision import Draft
from serving.router.flow.requests import DecisionRequest
from serving.router.flow.settlement import Settler
from serving.router.ops import metrics
from serving.router.ops.health import Health
from serving.router.ops.live_experiment import LiveExperiment
from serving.throttle import OncePerSecond

log = logging.getLogger(__name__)
log.addFilter(OncePerSecond())


class Decider:
    """Takes decisions; an inner fault is never an exception, but the default action and a reason.

    Args:
        spec: Description of the data set.
        live: The experiment in force.
        cost_cap: Highest possible cost of an exposure by channel.
        seconds: Deadline of a request.
        features: Where users are known.
        arms: Where policies answer.
        ledger: Where money is reserved; its calls block.
        pool: Threads for them.
        settler: Gives money back.
        spool: Where decisions are logged.
        drills: Faults on purpose.
        pacer: Prices of budgets.
        health: Is told which parts answer.

    Attributes:
        answers: What was answered lately.
        may_spend: False until the ledger is set up; every exposure is a ledger fault as long.
    """

    def __init__(
        self,
        *,
        spec: DatasetSpec,
        live: LiveExperiment,
        cost_cap: Mapping[str, float],
        seconds: float,
        features: FeatureReader,
        arms: Arms,
        ledger: Ledger,
        pool: Executor,
        settler: Settler,
        spool: Spool,
        drills: Drills,
        pacer: Pacer,
        health: Health,
    ) -> None:
        self._spec = spec
        self._live = live
        self._cost_cap = cost_cap
        self._seconds = seconds
        self._features = features
        self._arms = arms
        self._reservations: Gathered[Wanted, bool] = Gathered(
            in_threads(lambda wanted: ledger.reserve_all(wanted), pool)
        )
        self._settler = settler
        self._spool = spool
        self._drills = drills
        self._pacer = pacer
        self._health = health
        self._breakers: defaultdict[str, Breaker] = defaultdict(Breaker)  # of the arms, and of "features"
        self.answers = Answers()
        self._running: set[asyncio.Task[list[dict[str, Any]]]] = set()
        self.may_spend = False
        self._candidates = list(spec.channels)

    async def decide(self, requests: Sequence[DecisionRequest]) -> list[dict[str, Any]]:
        """One prediction for each request, in order; one that came before gets the answer that it got then.

        A decision goes on when its caller gives up: money may be reserved, and others may wait for the same answer.
        """
        task = asyncio.create_task(self._decide(requests))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def drain(self) -> None:
        """Wait for the decisions that nobody waits for any more."""
        while self._running:
            await asyncio.wait(self._running)

    async def _decide(self, requests: Sequence[DecisionRequest]) -> list[dict[str, Any]]:
        deadline = Deadline(self._seconds)
        experiment = self._live.experiment
        drafts = [Draft.start(request, experiment, self._spool.identity) for request in requests]
        new: list[Draft] = []
        answers: list[asyncio.Future[dict[str, Any]] | Draft] = []
        for draft in drafts:
            if draft.key is not None and (answer := self.answers.repeat(draft.key)) is not None:
                answers.append(answer)
                metrics.REPEATED.inc()
                continue
            if draft.key is not None:
                self.answers.begin(draft.key)
            new.append(draft)
            answers.append(draft)
        try:
            await self._take(new, deadline)
        except Exception as error:  # a bug of ours; whoever asked, or waits for this answer, gets the default action
            log.exception("a decision failed")
            await asyncio.gather(*(self._withdraw(d, "internal", error, deadline) for d in new), return_exceptions=True)
        self._count(new, deadline)
        predictions = {draft.decision_id: draft.prediction() for draft in new}
        for draft in new:
            if draft.key is not None:
                self.answers.give(draft.key, predictions[draft.decision_id])
        # What another request is deciding is over by that one's deadline, which began before this one's.
        return [predictions[a.decision_id] if isinstance(a, Draft) else await asyncio.shield(a) for a in answers]

    async def _take(self, drafts: Sequence[Draft], deadline: Deadline) -> None:
        """Go through all stages."""
        await self._read_features(drafts, deadline)
        await self._ask_arms([draft for draft in drafts if not draft.fault], deadline)
        await _all(self._reserve(d, deadline) for d in drafts if d.answer and d.answer.expose)
        await _all(self._log(draft, deadline) for draft in drafts)

    def _count(self, drafts: Sequence[Draft], deadline: Deadline) -> None:
        for draft in drafts:
            metrics.DECISIONS.labels(draft.arm, str(draft.expose).lower()).inc()
            metrics.DECISION_LATENCY.labels(draft.arm).observe(deadline.elapsed())
            if draft.fault:
                if (visit := VISIT.get()) is not None:
                    visit.strained = True
                metrics.FALLBACKS.labels(draft.arm, draft.fault).inc()

    async def _read_features(self, drafts: Sequence[Draft], deadline: Deadline) -> None:
        if not self._breakers["features"].lets_through():
            _fail(drafts, "features", "they failed too often: left alone for a moment")
            return
        try:
            with metrics.stage("features", *{draft.arm for draft in drafts}):
                async with asyncio.timeout(deadline.left("features")):
                    await self._drills.strike("features")
                    users = await self._features.read([draft.request for draft in drafts])
            found = list(zip(drafts, users, strict=True))
            self._report("features")
        except Exception as error:
            self._report("features", error)
            _fail(drafts, "features", error)
            return
        for draft, user in found:
            try:
                request, draft.features_found, draft.aggregates = draft.request, user.found, user.aggregates
                draft.window = instance_from_history(user.history, request.context, user.static, self._spec, request.at)
            except Exception as error:  # a history that is not one
                _fail([draft], "features", error)

    async def _ask_arms(self, drafts: Sequence[Draft], deadline: Deadline) -> None:
        arms: dict[str, list[Draft]] = {}
        for draft in drafts:
            arms.setdefault(draft.arm, []).append(draft)
        await _all(self._ask_arm(name, group, deadline) for name, group in arms.items())

    async def _ask_arm(self, arm: str, drafts: Sequence[Draft], deadline: Deadline) -> None:
        left = deadline.left("model")
        if left <= 0:
            _fail(drafts, "no_time", "before the model")
            return
        if not self._breakers[arm].lets_through():
            _fail(drafts, "model_error", f"{arm} failed too often: left alone for a moment")
            return
        try:
            with metrics.stage("model", arm):
                async with asyncio.timeout(left):
                    await self._drills.strike("model")
                    url = drafts[0].experiment.arm(arm).url
                    prices = [self._pacer.prices(arm, draft.request.campaign_id) for draft in drafts]
                    items = [draft.item(price) for draft, price in zip(drafts, prices, strict=True)]
                    answers = await self._arms.ask(url, items)
            self._report(arm)
        except TimeoutError as error:
            self._report(arm, error)
            _fail(drafts, "model_timeout", f"{arm} took longer than {left:.3f} s")
            return
        except Exception as error:
            self._report(arm, error)
            _fail(drafts, "model_error", error)
            return
        for draft, answer in zip(drafts, answers, strict=True):
            if isinstance(answer, ArmError):
                _fail([draft], "model_error", answer)
            else:
                draft.answer = answer

    def _report(self, part: str, error: Exception | None = None) -> None:
        self._health.report(part, error)
        self._breakers[part].report(error is None)

    async def _reserve(self, draft: Draft, deadline: Deadline) -> None:
        assert draft.answer is not None
        left = deadline.left("ledger")
        if left <= 0:
            _fail([draft], "no_time", "before the ledger")
            return
        if not self.may_spend or self._settler.full:
            why = "too much is still to be settled" if self.may_spend else "it is not set up yet"
            _fail([draft], "ledger", why)
            return
        channel, campaign = draft.answer.channel, draft.request.campaign_id
        wanted = Wanted(draft.decision_id, draft.arm, campaign, channel, self._cost_cap[channel], draft.key)
        try:
            with metrics.stage("ledger", draft.arm):
                async with asyncio.timeout(left):
                    await self._drills.strike("ledger")
                    granted = await self._reservations.do(wanted)
        except AlreadyReserved as error:
            _fail([draft], "repeated", error)  # and nothing to give back: it is not this decision's money
            return
        except Exception as error:
            _fail([draft], "ledger", error)
            self._settler.finish_later(draft.decision_id, None)  # it may have been reserved, or be reserved yet
            return
        draft.reserved = wanted.amount if granted else None
        draft.budget_exhausted = not granted

    async def _log(self, draft: Draft, deadline: Deadline) -> None:
        try:
            with metrics.stage("log", draft.arm):
                async with asyncio.timeout(deadline.left("log")):
                    await self._drills.strike("log")
                    await self._spool.append("decision", draft.record(self._candidates, deadline.elapsed()))
            metrics.SPOOL_RECORDS.inc()
        except Exception as error:
            await self._withdraw(draft, "log", error, deadline)

    async def _withdraw(self, draft: Draft, reason: str, why: Exception, deadline: Deadline) -> None:
        """Take the default action after all, whatever is reserved or on its way to the log."""
        exposing = draft.expose
        _fail([draft], reason, why)
        if exposing:
            await self._settler.finish(draft.decision_id, None, deadline.left("log"))
        # The first record may become durable yet. This one says that nothing was shown; nobody waits for it.
        with contextlib.suppress(SpoolUnavailable):
            self._spool.submit("decision", draft.record(self._candidates, deadline.elapsed()))


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Side by side; one alone, which is the usual request, without a task of its own."""
    parts = list(work)
    if len(parts) == 1:
        await parts[0]
    else:
        await asyncio.gather(*parts)


def _fail(drafts: Sequence[Draft], reason: str, why: object) -> None:
    for draft in drafts:
        draft.fall_back(reason)
    log.warning("default action, %s: %s", reason, f"{type(why).__name__}: {why}" if isinstance(why, Exception) else why)
