"""Calls the parts of the router for decisions: feature store, arms, ledger and log.

Each call has its time, spans, metrics, drills and a circuit breaker. If a part fails every time, or some of its calls
do not return, decisions take the default action at once, and now and then one call finds out whether the part answers
again. Otherwise each decision of an arm that hangs would wait until the model's time is over, an idle router would
refuse requests (`admission.py`), and all threads would hang.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby
from time import monotonic, perf_counter
from typing import Any

from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

from serving.router.flow.pending_decision import PendingDecision
from serving.router.ops import metrics, tracing
from serving.router.ops.drills import Drills
from serving.router.ops.health import Health
from serving.router.ops.metrics import Stage

FAILURES = 20  # requests in a row until the circuit breaker opens ...
SILENT_SECONDS = 0.25  # ... if they lasted as long: one bad moment makes many fail together
_PAUSE_SECONDS = 0.25  # between the calls through an open circuit breaker
_MOST_HANGING = 3  # calls of a part that have had their time: until one returns, the part is not called
GRACE_SECONDS = 0.002  # beyond a stage's end, for a thread that keeps to it

Decisions = Sequence[PendingDecision]
Call = Callable[[Sequence[Any], float, Sequence[Span]], Sequence[Any]]
"""Answers questions within seconds, or raises; an exception may stand for a single answer."""


class CircuitOpen(RuntimeError):
    """The part was not called: it has failed too often."""


class CircuitBreaker:
    """The circuit breaker of one part."""

    def __init__(self) -> None:
        self._failures = 0
        self._since = 0.0  # the first failure
        self._ask_again = 0.0
        self.ends: list[float] = []  # of the calls at work: when their time is over

    def lets_through(self) -> bool:
        """Whether the part may be called now."""
        now = monotonic()
        if sum(end < now for end in list(self.ends)) >= _MOST_HANGING:  # each one holds a thread
            return False
        if self._failures < FAILURES or now < self._since + SILENT_SECONDS:
            return True
        if now < self._ask_again:
            return False
        self._ask_again = now + _PAUSE_SECONDS
        return True

    def report(self, answered: bool, requests: int) -> None:
        """Count requests that the part answered or failed."""
        if answered:
            self._failures = 0
            return
        if not self._failures and requests:
            self._since = monotonic()
        self._failures += requests


class Parts:
    """Calls parts, in threads; one circuit breaker a part.

    `part` is a part's name in `/health/ready`. Ledger and log have None: they are reported elsewhere, their exceptions
    are answers, and only what does not answer in time opens their circuit breakers.
    """

    def __init__(self, health: Health, drills: Drills) -> None:
        self.health = health
        self._drills = drills
        self._breakers: defaultdict[str, CircuitBreaker] = defaultdict(CircuitBreaker)

    def ask(
        self,
        stage: Stage,
        part: str | None,
        decisions: Decisions,
        question: Callable[[PendingDecision], Any],
        call: Call,
        take: Callable[[PendingDecision, Any], None],
    ) -> None:
        """Ask a part about decisions by one call; `take` gets each answer, or the exception in its place."""
        asked, questions = [], []
        for decision in decisions:
            with decision.lock:
                if decision.over:
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
                if not decision.over:
                    decision.asking = None
                    _apply(take, decision, answer)

    def _call(
        self, stage: Stage, part: str | None, decisions: Decisions, call: Call, questions: Sequence[Any]
    ) -> Sequence[Any]:
        """The answer to each question, or an exception."""
        seconds = max(decision.deadline.left(stage) for decision in decisions)
        start, fault, breaker = perf_counter(), None, self._breakers[part or stage]
        answers: Sequence[Any] = ()
        end = monotonic() + seconds
        try:
            with tracing.spans(stage, _spans(decisions)) as spans:
                if not breaker.lets_through():
                    raise CircuitOpen(f"{part or stage} does not answer: its circuit breaker is open")
                breaker.ends.append(end)
                self._drills.inject(stage, seconds)
                answers = call(questions, seconds, spans)
        except Exception as error:
            fault = error
        if not isinstance(fault, CircuitOpen):
            breaker.ends.remove(end)
        took = perf_counter() - start
        if took > seconds + GRACE_SECONDS:  # an answer that came too late does not count
            fault = TimeoutError(f"the stage {stage} did not end in time")
        if not isinstance(fault, CircuitOpen):
            # The event loop has counted those that it took over.
            self.report(stage, part, fault, len({id(one.deadline) for one in decisions if not one.taken_over}))
        for decision in decisions:
            metrics.of_arm(metrics.STAGE_LATENCY, decision.account, stage=stage).observe(took)
        return answers if fault is None else [fault] * len(decisions)

    def report(self, stage: Stage, part: str | None, fault: Exception | None, requests: int = 1) -> None:
        """Count requests that a part answered or failed."""
        if part is not None:
            self.health.report(part, fault)
        answered = fault is None or (part is None and not isinstance(fault, TimeoutError))
        self._breakers[part or stage].report(answered, requests)


def _apply(take: Callable[[PendingDecision, Any], None], decision: PendingDecision, answer: Any) -> None:
    try:
        take(decision, answer)
    except Exception as bug:  # concerns this decision alone
        decision.failed = "internal", bug


def _spans(decisions: Decisions) -> Iterable[tuple[tracing.Traits, Span]]:
    """A span for each request."""
    for _, of_request in groupby(decisions, key=lambda decision: id(decision.deadline)):
        shared = list(of_request)
        yield partial(_traits, shared), shared[0].span


def _traits(decisions: Decisions) -> dict[str, AttributeValue]:
    """Of the one decision, or what those of a request have in common, and their ids."""
    of, ids = decisions[0], [decision.decision_id for decision in decisions]
    if len(ids) == 1:
        return of.traits()
    return {"experiment": of.experiment.name, "arm": of.arm, "decisions": len(ids), "decision_ids": ids}
