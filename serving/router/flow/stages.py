"""Runs the stages of decisions in threads: features, arm, ledger, log and, after the answer, shadow calls.

A stage makes one call for all decisions of a batch. A circuit breaker stops calls to a store or arm that keeps failing.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from time import monotonic, perf_counter
from typing import Any

from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

from mtorl.log.records import DecisionRecord, WindowRecord, is_sampled
from serving.decision_log import Spool
from serving.ledger.contract import AlreadyReserved
from serving.router.flow.arms import ArmAnswer, Arms, fault_of
from serving.router.flow.budgets import Budgets, BudgetsClosed, NoAccount
from serving.router.flow.features import FeatureReader, ModelInput
from serving.router.flow.pending_decision import PendingDecision
from serving.router.ops import metrics, tracing
from serving.router.ops.drills import Drills
from serving.router.ops.health import Health
from serving.router.ops.metrics import Stage

FAILURES = 20  # failed requests in a row that open the circuit breaker
SILENT_SECONDS = 0.25  # the circuit breaker stays closed for so long, because one batch may have many failures
GRACE_SECONDS = 0.002  # seconds by which a stage may exceed its time limit
_PAUSE_SECONDS = 0.25  # seconds between two test calls
_MOST_HANGING = 3  # no call begins while so many calls exceed their time limit
_FOUND = {found: metrics.FEATURES.labels("yes" if found else "no") for found in (True, False)}
_SHADOW_SECONDS = 1.0  # for an answer, and again for writing its record

Decisions = Sequence[PendingDecision]
Call = Callable[[Sequence[Any], float, Sequence[Span]], Sequence[Any]]
"""Type of a function that answers several questions at once, within a time limit in seconds. It raises if it can't
answer at all. A single answer may be an exception."""

log = logging.getLogger(__name__)


class Stages:
    """Runs the four stages and shadow calls. `window_share` is the share of users with logged windows."""

    def __init__(
        self, reader: FeatureReader, arms: Arms, budgets: Budgets, spool: Spool, parts: "Parts", window_share: float
    ) -> None:
        self._reader = reader
        self._arms = arms
        self._budgets = budgets
        self._spool = spool
        self._window_share = window_share
        self.parts = parts

    def decide(self, decisions: Decisions) -> None:
        """Run the four stages for new decisions.

        A repeated exposure becomes a new decision if its money is no longer reserved or spent.
        """
        self._check_repeats([decision for decision in decisions if decision.previous is not None])
        new = [decision for decision in decisions if decision.previous is None]
        self._read_features(new)
        for of_one in _by_policy(new):
            self._call_arm(of_one)
        self._reserve(new)
        self._log(new)

    def _check_repeats(self, decisions: Decisions) -> None:
        """Forget a decision's previous answer if its money is no longer reserved or spent."""

        def take(decision: PendingDecision, paid: bool | Exception) -> None:
            if not paid or isinstance(paid, AlreadyReserved):
                decision.previous = None
                return
            decision.done = True
            if isinstance(paid, Exception):
                about = decision.ids(type(paid).__name__)
                log.warning("an exposure is repeated without the ledger, %s: %s", about["cause"], paid, extra=about)

        reserve_all = _plain(self._budgets.ledger.reserve_all)
        self.parts.query("ledger", None, decisions, self._budgets.wanted_again, reserve_all, take)

    def _read_features(self, decisions: Decisions) -> None:
        def take(decision: PendingDecision, found: ModelInput | Exception) -> None:
            if not isinstance(found, Exception):
                decision.features = found
                _FOUND[found.has_history].inc()
            # a policy in the experiment file may not need features
            elif decision.policy.policy is None:
                decision.fall_back("features", found)

        read = _plain(self._reader.read)
        self.parts.query("features", "features", decisions, lambda decision: decision.request, read, take)

    def _call_arm(self, decisions: Decisions) -> None:
        experiment, arm = decisions[0].experiment, decisions[0].policy

        def item(decision: PendingDecision) -> dict[str, Any]:
            decision.prices = self._budgets.pacer.prices(decision.account, decision.request.campaign_id)
            return decision.item()

        def take(decision: PendingDecision, answer: ArmAnswer | Exception) -> None:
            if isinstance(answer, Exception):
                reason, cause = fault_of(answer)
                decision.fall_back(reason, answer, cause)
            else:
                decision.accept(answer)

        needing = [decision for decision in decisions if not decision.fault]
        predict = partial(self._arms.predict, experiment, arm)
        self.parts.query("model", experiment.key(arm.name), needing, item, predict, take)

    def _reserve(self, decisions: Decisions) -> None:
        def take(decision: PendingDecision, reserved: float | Exception | None) -> None:
            if not isinstance(reserved, Exception):
                decision.pay(reserved)
            elif isinstance(reserved, NoAccount):
                decision.fall_back("no_account", reserved)
            elif isinstance(reserved, AlreadyReserved):
                decision.fall_back("repeated", reserved)  # the other decision on the request keeps its money
            else:
                decision.fall_back("ledger", reserved)
                decision.may_be_reserved = not isinstance(reserved, BudgetsClosed | CircuitOpen)

        exposing = [decision for decision in decisions if decision.action.expose]  # includes default actions
        self.parts.query("ledger", None, exposing, self._budgets.wanted, _plain(self._budgets.reserve), take)

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

        self.parts.query("log", None, decisions, records, write, take)

    def shadow(self, shadows: Decisions) -> None:
        """Call challengers for answered decisions, and log their choices, without spending money."""
        for of_one in _by_policy(shadows):
            experiment, arm = of_one[0].experiment, of_one[0].policy
            try:
                self._call_in_shadow(of_one)
                self._spool.write("shadow", [shadow.shadow_record() for shadow in of_one], _SHADOW_SECONDS)
                results = ["failed" if shadow.fault else "answered" for shadow in of_one]
            except Exception as error:
                about = of_one[0].ids(type(error).__name__)
                log.warning("%d decisions have no shadow, %s: %s", len(of_one), about["cause"], error, extra=about)
                results = ["dropped"] * len(of_one)
            for result in results:
                metrics.of_arm(metrics.SHADOW, experiment.key(arm.name), result=result).inc()

    def _call_in_shadow(self, shadows: Decisions) -> None:
        experiment, arm = shadows[0].experiment, shadows[0].policy
        for shadow in shadows:  # a policy in the experiment file may not need features
            shadow.fault = "features" if shadow.features is None and arm.policy is None else None
        if not (asked := [shadow for shadow in shadows if shadow.fault is None]):
            return
        answers: Sequence[ArmAnswer | Exception]
        fault: Exception | None = None
        try:
            with tracing.spans("shadow", ((shadow.traits, shadow.span) for shadow in asked)) as spans:
                items = [shadow.item() for shadow in asked]
                answers = self._arms.predict(experiment, arm, items, _SHADOW_SECONDS, spans)
        except Exception as error:
            fault, answers = error, [error] * len(asked)
        self.parts.health.report(experiment.key(arm.name), fault)
        for shadow, answer in zip(asked, answers, strict=True):
            if isinstance(answer, Exception):
                shadow.fault, cause = fault_of(answer)
                log.warning("arm %s at stage shadow, %s: %s", arm.name, cause, answer, extra=shadow.ids(cause))
            else:
                shadow.accept(answer)


class Parts:
    """Calls stores and arms for the stages, each through a circuit breaker. Thread-safe.

    `part` is the name of a store or arm in `/health/ready`. It is None for the ledger and the log, for which only
    timeouts count as failures.
    """

    def __init__(self, health: Health, drills: Drills) -> None:
        self.health = health
        self._drills = drills
        self._breakers: defaultdict[str, CircuitBreaker] = defaultdict(CircuitBreaker)

    def query(
        self,
        stage: Stage,
        part: str | None,
        decisions: Decisions,
        question: Callable[[PendingDecision], Any],
        call: Call,
        take: Callable[[PendingDecision, Any], None],
    ) -> None:
        """Make one call for all decisions, and pass each answer or exception to `take`.

        If `take` raises an error, only that decision fails.
        """
        asked, questions = [], []
        for decision in decisions:
            with decision.lock:
                if decision.closed:
                    continue
                if decision.deadline.left(stage) <= 0:
                    decision.fall_back("no_time", TimeoutError(f"before the stage {stage}"))
                    continue
                try:
                    questions.append(question(decision))
                except Exception as error:
                    _apply(take, decision, error)
                    continue
                asked.append(decision)
                decision.asking = stage, part
        if not asked:
            return
        for decision, answer in zip(asked, self._call(stage, part, asked, call, questions), strict=True):
            with decision.lock:
                if not decision.closed:
                    _apply(take, decision, answer)

    def _call(
        self, stage: Stage, part: str | None, decisions: Decisions, call: Call, questions: Sequence[Any]
    ) -> Sequence[Any]:
        seconds = max(decision.deadline.left(stage) for decision in decisions)
        start, fault, breaker = perf_counter(), None, self._breakers[part or stage]
        answers: Sequence[Any] = ()
        end = monotonic() + seconds
        try:
            with tracing.spans(stage, _spans(decisions)) as spans:
                if not breaker.allows_call():
                    raise CircuitOpen(f"{part or stage} does not answer: its circuit breaker is open")
                breaker.ends.append(end)
                self._drills.inject(stage, seconds)
                answers = call(questions, seconds, spans)
        except Exception as error:
            fault = error
        took = perf_counter() - start
        if not isinstance(fault, CircuitOpen):
            breaker.ends.remove(end)
            if took > seconds + GRACE_SECONDS:  # a late answer is not used
                fault = TimeoutError(f"the stage {stage} did not end in time")
            # The event loop has already reported decisions that it took over.
            self.report(stage, part, fault, len({id(one.deadline) for one in decisions if not one.taken_over}))
        for decision in decisions:
            metrics.of_arm(metrics.STAGE_LATENCY, decision.account, stage=stage).observe(took)
        return answers if fault is None else [fault] * len(decisions)

    def report(self, stage: Stage, part: str | None, fault: Exception | None, requests: int = 1) -> None:
        """Report a call's result to health and circuit breaker."""
        if part is not None:
            self.health.report(part, fault)
        answered = fault is None or (part is None and not isinstance(fault, TimeoutError))
        self._breakers[part or stage].report(answered, requests)


class CircuitOpen(RuntimeError):
    """Raised if a part is not called, because it has failed too often."""


class CircuitBreaker:
    """Stops most calls to a store or arm that keeps failing."""

    def __init__(self) -> None:
        self._failures = 0
        self._since = 0.0  # when the first of the failures in a row happened
        self._ask_again = 0.0  # earliest time of the next test call
        self.ends: list[float] = []  # time limits of the calls in progress, as monotonic times

    def allows_call(self) -> bool:
        """Whether the part may be called now."""
        now = monotonic()
        if sum(end < now for end in list(self.ends)) >= _MOST_HANGING:  # each call blocks a thread
            return False
        if self._failures < FAILURES or now < self._since + SILENT_SECONDS:
            return True
        if now < self._ask_again:
            return False
        self._ask_again = now + _PAUSE_SECONDS
        return True

    def report(self, answered: bool, requests: int) -> None:
        """Count requests that the part has answered, or failed to answer."""
        if answered:
            self._failures = 0
            return
        if not self._failures and requests:
            self._since = monotonic()
        self._failures += requests


def _apply(take: Callable[[PendingDecision, Any], None], decision: PendingDecision, answer: Any) -> None:
    try:
        take(decision, answer)
        decision.asking = None
    except Exception as bug:
        decision.failed = "internal", bug


def _by_policy(decisions: Decisions) -> Iterable[Decisions]:
    found: dict[tuple[int, str], list[PendingDecision]] = {}
    for decision in decisions:
        found.setdefault((id(decision.experiment), decision.arm), []).append(decision)
    return found.values()


def _plain(call: Callable[[Any], Sequence[Any]]) -> Call:
    return lambda questions, seconds, spans: call(questions)


def _spans(decisions: Decisions) -> Iterable[tuple[tracing.Traits, Span]]:
    for _, of_request in groupby(decisions, key=lambda decision: id(decision.deadline)):
        shared = list(of_request)
        yield partial(_traits, shared), shared[0].span


def _traits(decisions: Decisions) -> dict[str, AttributeValue]:
    of, ids = decisions[0], [decision.decision_id for decision in decisions]
    if len(ids) == 1:
        return of.traits()
    return {"experiment": of.experiment.name, "arm": of.arm, "decisions": len(ids), "decision_ids": ids}
