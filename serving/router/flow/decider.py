"""The decision flow: each stage works on all decisions of a request, and marks those for which it failed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from mtorl.log.records import FallbackReason
from serving.decision_log import Spool, SpoolUnavailable, Status
from serving.ledger import AlreadyReserved
from serving.router.flow.admission import CURRENT
from serving.router.flow.arm_answers import ArmError
from serving.router.flow.arms import Arms
from serving.router.flow.budgets import Budgets, BudgetsClosed, NoAccount
from serving.router.flow.features import FeatureReader
from serving.router.flow.idempotency_cache import IdempotencyCache, RequestConflict
from serving.router.flow.pending_decision import PendingDecision
from serving.router.flow.requests import DecisionRequest
from serving.router.flow.shadow import Shadow
from serving.router.flow.stages import Deadline, NoTimeLeft, Stages
from serving.router.ops import metrics, tracing
from serving.router.ops.found_features import FoundFeatures
from serving.router.ops.live_experiments import LiveExperiments

_NOT_BROKEN = ("no_account", "no_baseline")  # faults of files or requests
WITHDRAWAL_SECONDS = 1.0  # for which a log that hangs holds the money of a decision that was withdrawn

_T = TypeVar("_T")

log = logging.getLogger(__name__)

Decisions = Sequence[PendingDecision]


class Decider:
    """Takes decisions; an inner fault is never an exception, but the default action and a reason.

    Args:
        live: The experiments in force.
        features: What is known of users.
        arms: The policies.
        budgets: Where money is reserved.
        spool: Where decisions are logged.
        stages: Time limits, and what follows from failures.
        found: Is told whether anything is known of a user.
        shadow: Is told of the decisions that were taken.

    Attributes:
        cache: Recent answers.
    """

    def __init__(
        self,
        live: LiveExperiments,
        features: FeatureReader,
        arms: Arms,
        budgets: Budgets,
        spool: Spool,
        stages: Stages,
        found: FoundFeatures,
        shadow: Shadow,
    ) -> None:
        self._live = live
        self._features = features
        self._arms = arms
        self._budgets = budgets
        self._spool = spool
        self._stages = stages
        self._found = found
        self._shadow = shadow
        self.cache = IdempotencyCache()
        self._running: set[asyncio.Task[Any]] = set()

    async def decide(self, requests: Sequence[DecisionRequest]) -> list[dict[str, Any]]:
        """One prediction for each request, in order; a request that came before gets the answer that it got then.

        A decision goes on when its caller gives up: money may be reserved, and others may wait for the same answer.

        Raises:
            RequestConflict: A request has the id of another one. Nothing was decided.
        """
        return await asyncio.shield(self._in_background(self._decide(requests)))

    async def drain(self) -> None:
        """Wait for the decisions whose callers gave up, and for the money of those that were withdrawn."""
        while self._running:
            await asyncio.wait(self._running)

    async def _decide(self, requests: Sequence[DecisionRequest]) -> list[dict[str, Any]]:
        deadline = self._stages.deadline()
        answers: list[asyncio.Future[dict[str, Any]] | PendingDecision] = []
        try:
            for request in requests:
                answers.append(self._start(request))
        except RequestConflict as error:
            self.cache.give_up(answer.key for answer in answers if isinstance(answer, PendingDecision))
            raise RequestConflict(f"instances[{len(answers)}]: {error}") from None
        begun = [answer for answer in answers if isinstance(answer, PendingDecision)]
        new = [decision for decision in begun if decision.before is None]
        work = [self._repeat(decision, deadline) for decision in begun if decision.before is not None]
        await _all([self._take(new, deadline), *work] if new else work)
        # An answer that another request is working on comes by that one's deadline, which began before this one's.
        return [
            answer.prediction() if isinstance(answer, PendingDecision) else await asyncio.shield(answer)
            for answer in answers
        ]

    def _start(self, request: DecisionRequest) -> asyncio.Future[dict[str, Any]] | PendingDecision:
        """The answer to a request that came before, or else a decision: a new one, or one that may become new."""
        decision = PendingDecision.start(
            request, self._live.experiments.deciding(request.user_id, request.campaign_id), self._spool.identity
        )
        if decision.key is not None:
            answer = self.cache.repeat(decision.key, request.content)
            if isinstance(answer, asyncio.Future):
                metrics.REPEATED.inc()
                return answer
            decision.before = answer
            self.cache.begin(decision.key, request.content)
        return decision

    async def _repeat(self, decision: PendingDecision, deadline: Deadline) -> None:
        """Give the answer of before, or decide anew if its money was given back: another router may have heard so.

        If the ledger can't say, the answer is repeated. That reserves nothing, so the rule that nobody spends without a
        ledger does not forbid it; the money was set aside, the first answer may have been acted on, and callers ask
        again just when parts are away.
        """
        assert decision.before is not None and decision.key is not None, "it was remembered under a key"
        try:
            async with self._stages.run("ledger", deadline, (decision.account,), traits=decision.traits):
                paid = await self._budgets.still_pay(decision)
        except Exception as error:  # NoTimeLeft and TimeoutError, too
            about = decision.ids(type(error).__name__)
            log.warning("an exposure is repeated without the ledger, %s: %s", about["cause"], error, extra=about)
            paid = True
        if paid:
            metrics.REPEATED.inc()
            self.cache.give_again(decision.key, decision.before.answer)
        else:
            decision.before = None
            await self._take([decision], deadline)

    async def _take(self, decisions: Decisions, deadline: Deadline) -> None:
        """Decide, and give the answers to whoever else waits for them."""
        try:
            await self._run_stages(decisions, deadline)
        except Exception as error:  # a bug of ours; the caller, and whoever waits for this answer, get the default
            log.exception("a decision failed", extra=decisions[0].ids(type(error).__name__))
            for decision in decisions:
                with contextlib.suppress(Exception):  # if not even a record can be made
                    self._withdraw(decision, "internal", error, deadline)
        self._count(decisions, deadline)
        for decision in decisions:
            if decision.key is not None:
                self.cache.give(decision.key, decision.prediction(), decision.reserved or 0.0, decision.account)
        tracing.note(lambda: decisions[0].traits() if len(decisions) == 1 else {"decisions": len(decisions)})
        self._shadow.offer(decisions)

    async def _run_stages(self, decisions: Decisions, deadline: Deadline) -> None:
        await self._read_features(decisions, deadline)
        await self._ask_arms([decision for decision in decisions if not decision.fault], deadline)
        # A default action that exposes, a baseline, needs money as well. Once the ledger was asked, nothing else does.
        await _all(self._reserve(d, deadline) for d in decisions if d.action.expose)
        await _all(self._log(decision, deadline) for decision in decisions)

    def _count(self, decisions: Decisions, deadline: Deadline) -> None:
        for decision in decisions:
            if not decision.override:  # nothing is paced by those who try it out
                self._budgets.pacer.count(decision.account, decision.request.campaign_id, decision.taken)
            arm = metrics.arm_labels(decision.account)
            metrics.DECISIONS.labels(*arm, str(decision.expose).lower()).inc()
            metrics.DECISION_LATENCY.labels(*arm).observe(deadline.elapsed())
            if (channel := decision.chosen_channel) is not None:
                metrics.DRAWN_CHANNELS.labels(*arm, channel).inc()
            if decision.fault:
                if decision.fault not in _NOT_BROKEN and (admitted := CURRENT.get()) is not None:
                    admitted.failed = not admitted.late
                metrics.FALLBACKS.labels(*arm, decision.fault).inc()

    async def _read_features(self, decisions: Decisions, deadline: Deadline) -> None:
        arms = {decision.account for decision in decisions}
        try:
            async with self._stages.run("features", deadline, arms, part="features"):
                inputs = await self._features.read([decision.request for decision in decisions])
        except Exception as error:
            _fail_without_features(decisions, error)
            return
        for decision, model_input in zip(decisions, inputs, strict=True):
            if isinstance(model_input, Exception):
                _fail_without_features([decision], model_input)
            else:
                decision.features = model_input
                self._found.count(model_input.has_history)

    async def _ask_arms(self, decisions: Decisions, deadline: Deadline) -> None:
        by_arm: dict[tuple[str, str], list[PendingDecision]] = {}
        for decision in decisions:
            by_arm.setdefault((decision.experiment.name, decision.arm), []).append(decision)
        await _all(self._ask_arm(group, deadline) for group in by_arm.values())

    async def _ask_arm(self, decisions: Decisions, deadline: Deadline) -> None:
        experiment, arm, policy = decisions[0].experiment, decisions[0].account, decisions[0].policy

        def about_arm() -> dict[str, str | int]:
            return {"experiment": experiment.name, "arm": policy.name, "decisions": len(decisions)}

        try:
            async with self._stages.run("model", deadline, (arm,), experiment.key(policy.name), about_arm):
                for decision in decisions:
                    decision.prices = self._budgets.pacer.prices(decision.account, decision.request.campaign_id)
                answers = await self._arms.ask(experiment, policy, [decision.item() for decision in decisions])
        except NoTimeLeft as error:
            _fail(decisions, "no_time", error)
            return
        except TimeoutError:
            _fail(decisions, "model_timeout", f"{arm} did not answer in time")
            return
        except ArmError as error:
            _fail(decisions, error.reason, f"arm {arm}: {error}", error.cause)
            return
        except Exception as error:
            _fail(decisions, "model_error", error)
            return
        for decision, answer in zip(decisions, answers, strict=True):
            if isinstance(answer, ArmError):
                _fail([decision], answer.reason, f"arm {arm}: {answer}", answer.cause)
            else:
                decision.take(answer)

    async def _reserve(self, decision: PendingDecision, deadline: Deadline) -> None:
        try:
            async with self._stages.run("ledger", deadline, (decision.account,), traits=decision.traits):
                decision.reserved = await self._budgets.reserve(decision)
        except NoTimeLeft as error:
            _fail([decision], "no_time", error)
        except BudgetsClosed as error:
            _fail([decision], "ledger", error)
        except NoAccount as error:
            _fail([decision], "no_account", error)
        except AlreadyReserved as error:
            _fail([decision], "repeated", error)  # and nothing to give back: the money is another decision's
        except Exception as error:
            _fail([decision], "ledger", error)
            self._budgets.cancel_later(decision.decision_id)  # it may have been reserved, or be reserved yet
        else:
            decision.budget_exhausted = not decision.expose

    async def _log(self, decision: PendingDecision, deadline: Deadline) -> None:
        try:
            async with self._stages.run("log", deadline, (decision.account,), traits=decision.traits):
                await self._spool.append("decision", decision.record(deadline.elapsed()))
            metrics.SPOOL_RECORDS.inc()
        except Exception as error:
            self._withdraw(decision, "log", error, deadline)

    def _withdraw(self, decision: PendingDecision, reason: FallbackReason, why: Exception, deadline: Deadline) -> None:
        """Take the default action after all, whatever is reserved or on its way to the log."""
        exposing, written = decision.expose, None
        _fail([decision], reason, why)
        # The first record may become durable yet. This one says that nothing was shown; no caller waits for it.
        decision.withdrawn = True
        try:
            written = self._spool.owe("decision", decision.record(deadline.elapsed()))
        finally:
            if exposing:
                self._in_background(self._give_back(decision.decision_id, written))

    async def _give_back(self, decision_id: str, written: Future[list[Status]] | None) -> None:
        """Give the money back once the log says that nothing was shown; a log that hangs or fails does not hold it.

        In the other order, a process that is killed in between leaves an exposure in the log that nothing pays for.
        """
        if written is not None:
            with contextlib.suppress(SpoolUnavailable, TimeoutError):
                async with asyncio.timeout(WITHDRAWAL_SECONDS):
                    await asyncio.shield(asyncio.wrap_future(written))  # else the timeout would take the record back
        self._budgets.cancel_later(decision_id)

    def _in_background(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Side by side; one alone, which is the usual request, without a task of its own."""
    parts = list(work)
    if len(parts) == 1:
        await parts[0]
    else:
        await asyncio.gather(*parts)


def _fail_without_features(decisions: Decisions, why: Exception) -> None:
    """A policy that needs no server says itself whether it needs them."""
    if needing := [decision for decision in decisions if decision.policy.policy is None]:
        _fail(needing, "features", why)


def _fail(decisions: Decisions, reason: FallbackReason, why: object, cause: str | None = None) -> None:
    for decision in decisions:
        decision.fall_back(reason)
    words = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else why
    log.warning("default action, %s: %s", reason, words, extra=decisions[0].ids(cause or reason))
