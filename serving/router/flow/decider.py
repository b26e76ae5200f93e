"""The decision flow: each stage works on all decisions of a request, and marks those for which it failed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from mtorl.log.dataset import DatasetSpec
from mtorl.log.records import FallbackReason
from mtorl.window.window import instance_from_history
from serving.decision_log import Spool, SpoolUnavailable
from serving.ledger import AlreadyReserved, Ledger, Wanted
from serving.router.flow.admission import CURRENT
from serving.router.flow.arms import ArmError, Arms
from serving.router.flow.breaker import Breaker
from serving.router.flow.deadline import Deadline
from serving.router.flow.drills import Drills
from serving.router.flow.features import FeatureReader
from serving.router.flow.idempotency_cache import IdempotencyCache
from serving.router.flow.micro_batcher import MicroBatcher, in_threads
from serving.router.flow.pacer import Pacer
from serving.router.flow.pending_decision import PendingDecision
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
        cache: What was answered lately.
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
        self._reservations: MicroBatcher[Wanted, bool] = MicroBatcher(
            in_threads(lambda wanted: ledger.reserve_all(wanted), pool)
        )
        self._settler = settler
        self._spool = spool
        self._drills = drills
        self._pacer = pacer
        self._health = health
        self._breakers: defaultdict[str, Breaker] = defaultdict(Breaker)  # of the arms, and of "features"
        self.cache = IdempotencyCache()
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
        decisions = [PendingDecision.start(request, experiment, self._spool.identity) for request in requests]
        new: list[PendingDecision] = []
        answers: list[asyncio.Future[dict[str, Any]] | PendingDecision] = []
        for decision in decisions:
            if decision.key is not None and (answer := self.cache.repeat(decision.key)) is not None:
                answers.append(answer)
                metrics.REPEATED.inc()
                continue
            if decision.key is not None:
                self.cache.begin(decision.key)
            new.append(decision)
            answers.append(decision)
        try:
            await self._take(new, deadline)
        except Exception as error:  # a bug of ours; whoever asked, or waits for this answer, gets the default action
            log.exception("a decision failed")
            await asyncio.gather(*(self._withdraw(d, "internal", error, deadline) for d in new), return_exceptions=True)
        self._count(new, deadline)
        predictions = {decision.decision_id: decision.prediction() for decision in new}
        for decision in new:
            if decision.key is not None:
                self.cache.give(decision.key, predictions[decision.decision_id])
        # What another request is deciding is over by that one's deadline, which began before this one's.
        return [
            predictions[a.decision_id] if isinstance(a, PendingDecision) else await asyncio.shield(a) for a in answers
        ]

    async def _take(self, decisions: Sequence[PendingDecision], deadline: Deadline) -> None:
        """Go through all stages."""
        await self._read_features(decisions, deadline)
        await self._ask_arms([decision for decision in decisions if not decision.fault], deadline)
        await _all(self._reserve(d, deadline) for d in decisions if d.answer and d.answer.expose)
        await _all(self._log(decision, deadline) for decision in decisions)

    def _count(self, decisions: Sequence[PendingDecision], deadline: Deadline) -> None:
        for decision in decisions:
            metrics.DECISIONS.labels(decision.arm, str(decision.expose).lower()).inc()
            metrics.DECISION_LATENCY.labels(decision.arm).observe(deadline.elapsed())
            if decision.fault:
                if (admitted := CURRENT.get()) is not None:
                    admitted.strained = True
                metrics.FALLBACKS.labels(decision.arm, decision.fault).inc()

    async def _read_features(self, decisions: Sequence[PendingDecision], deadline: Deadline) -> None:
        if not self._breakers["features"].lets_through():
            _fail(decisions, "features", "they failed too often: left alone for a moment")
            return
        try:
            with metrics.stage("features", *{decision.arm for decision in decisions}):
                async with asyncio.timeout(deadline.left("features")):
                    await self._drills.strike("features")
                    users = await self._features.read([decision.request for decision in decisions])
            found = list(zip(decisions, users, strict=True))
            self._report("features")
        except Exception as error:
            self._report("features", error)
            _fail(decisions, "features", error)
            return
        for decision, user in found:
            try:
                request, decision.features_found, decision.aggregates = decision.request, user.found, user.aggregates
                decision.window = instance_from_history(
                    user.history, request.context, user.static, self._spec, request.at
                )
            except Exception as error:  # a history that is not one
                _fail([decision], "features", error)

    async def _ask_arms(self, decisions: Sequence[PendingDecision], deadline: Deadline) -> None:
        arms: dict[str, list[PendingDecision]] = {}
        for decision in decisions:
            arms.setdefault(decision.arm, []).append(decision)
        await _all(self._ask_arm(name, group, deadline) for name, group in arms.items())

    async def _ask_arm(self, arm: str, decisions: Sequence[PendingDecision], deadline: Deadline) -> None:
        left = deadline.left("model")
        if left <= 0:
            _fail(decisions, "no_time", "before the model")
            return
        if not self._breakers[arm].lets_through():
            _fail(decisions, "model_error", f"{arm} failed too often: left alone for a moment")
            return
        try:
            with metrics.stage("model", arm):
                async with asyncio.timeout(left):
                    await self._drills.strike("model")
                    url = decisions[0].experiment.arm(arm).url
                    prices = [self._pacer.prices(arm, decision.request.campaign_id) for decision in decisions]
                    items = [decision.item(price) for decision, price in zip(decisions, prices, strict=True)]
                    answers = await self._arms.ask(url, items)
            self._report(arm)
        except TimeoutError as error:
            self._report(arm, error)
            _fail(decisions, "model_timeout", f"{arm} took longer than {left:.3f} s")
            return
        except Exception as error:
            self._report(arm, error)
            _fail(decisions, "model_error", error)
            return
        for decision, answer in zip(decisions, answers, strict=True):
            if isinstance(answer, ArmError):
                _fail([decision], "model_error", answer)
            else:
                decision.answer = answer

    def _report(self, part: str, error: Exception | None = None) -> None:
        self._health.report(part, error)
        self._breakers[part].report(error is None)

    async def _reserve(self, decision: PendingDecision, deadline: Deadline) -> None:
        assert decision.answer is not None
        left = deadline.left("ledger")
        if left <= 0:
            _fail([decision], "no_time", "before the ledger")
            return
        if not self.may_spend or self._settler.full:
            why = "too much is still to be settled" if self.may_spend else "it is not set up yet"
            _fail([decision], "ledger", why)
            return
        channel, campaign = decision.answer.channel, decision.request.campaign_id
        wanted = Wanted(decision.decision_id, decision.arm, campaign, channel, self._cost_cap[channel], decision.key)
        try:
            with metrics.stage("ledger", decision.arm):
                async with asyncio.timeout(left):
                    await self._drills.strike("ledger")
                    granted = await self._reservations.submit(wanted)
        except AlreadyReserved as error:
            _fail([decision], "repeated", error)  # and nothing to give back: it is not this decision's money
            return
        except Exception as error:
            _fail([decision], "ledger", error)
            self._settler.finish_later(decision.decision_id, None)  # it may have been reserved, or be reserved yet
            return
        decision.reserved = wanted.amount if granted else None
        decision.budget_exhausted = not granted

    async def _log(self, decision: PendingDecision, deadline: Deadline) -> None:
        try:
            with metrics.stage("log", decision.arm):
                async with asyncio.timeout(deadline.left("log")):
                    await self._drills.strike("log")
                    await self._spool.append("decision", decision.record(self._candidates, deadline.elapsed()))
            metrics.SPOOL_RECORDS.inc()
        except Exception as error:
            await self._withdraw(decision, "log", error, deadline)

    async def _withdraw(
        self, decision: PendingDecision, reason: FallbackReason, why: Exception, deadline: Deadline
    ) -> None:
        """Take the default action after all, whatever is reserved or on its way to the log."""
        exposing = decision.expose
        _fail([decision], reason, why)
        if exposing:
            await self._settler.finish(decision.decision_id, None, deadline.left("log"))
        # The first record may become durable yet. This one says that nothing was shown; nobody waits for it.
        decision.withdrawn = True
        with contextlib.suppress(SpoolUnavailable):
            self._spool.submit("decision", decision.record(self._candidates, deadline.elapsed()))


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Side by side; one alone, which is the usual request, without a task of its own."""
    parts = list(work)
    if len(parts) == 1:
        await parts[0]
    else:
        await asyncio.gather(*parts)


def _fail(decisions: Sequence[PendingDecision], reason: FallbackReason, why: object) -> None:
    for decision in decisions:
        decision.fall_back(reason)
    log.warning("default action, %s: %s", reason, f"{type(why).__name__}: {why}" if isinstance(why, Exception) else why)
