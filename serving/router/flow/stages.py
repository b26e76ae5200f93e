"""The stages of a decision, in order: features of the user, the arm, the ledger, the log.

A lane's thread takes a batch of jobs through them, with one call of each stage for all decisions of an arm. A fault
concerns as few decisions as possible: one user's features, one answer, one reservation, or all that share the call. A
decision that lacks something takes the default action through the later stages.

A stage may use what is left before the deadline, except for the little that the later stages need (`Deadline.left`):
on a busy machine any stage may be held up for a moment, and seldom all of them. A call that takes longer is a
TimeoutError, whether the part raises it or the event loop has taken the job over. A stage without time left is not
called (NotCalled).

If a part fails every time, its circuit breaker opens: decisions take the default action at once, and now and then one
request finds out whether the part answers again. Otherwise each decision of an arm that hangs would wait until the
model's time is over, and an idle router would refuse requests (`admission.py`).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from time import monotonic, perf_counter
from typing import Any, ClassVar, NamedTuple

from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

from mtorl.experiment.arm import Arm
from mtorl.experiment.experiment import Experiment
from mtorl.log.records import DecisionRecord, FallbackReason, WindowRecord, is_sampled
from serving.decision_log import Spool, SpoolUnavailable
from serving.ledger import AlreadyReserved, Wanted
from serving.router.flow.arm_answers import ArmAnswer, ArmError
from serving.router.flow.arms import Arms
from serving.router.flow.budgets import Budgets, BudgetsClosed, NoAccount
from serving.router.flow.features import FeatureReader, ModelInput
from serving.router.flow.lane import Job, NotCalled
from serving.router.flow.pending_decision import PendingDecision
from serving.router.flow.requests import DecisionRequest
from serving.router.ops import metrics, tracing
from serving.router.ops.drills import Drills
from serving.router.ops.health import FoundFeatures, Health

log = logging.getLogger(__name__)

FAILURES = 20  # in a row until the circuit breaker opens ...
SILENT_SECONDS = 0.25  # ... if they lasted as long: one bad moment makes many fail together
_PAUSE_SECONDS = 0.25  # between the requests through an open circuit breaker

Decisions = Sequence[PendingDecision]


class Stage(ABC):
    """A stage of a decision. While `call` blocks, the event loop may take decisions over; the rest can't be split."""

    name: ClassVar[metrics.Stage]

    def concerns(self, decision: PendingDecision) -> bool:
        """Whether a decision needs the stage."""
        return not decision.fault

    @abstractmethod
    def ask(self, decision: PendingDecision) -> Any:
        """The question for a decision."""

    def together(self, decision: PendingDecision) -> object:
        """Decisions with equal values share a call. Of the last stage, it is one for all: no answer waits for two."""
        return None

    @abstractmethod
    def call(self, asked: Sequence[Any], seconds: float, spans: Sequence[Span]) -> Sequence[Any]:
        """Answer questions within seconds; an exception stands for a missing answer."""

    def take(self, decision: PendingDecision, answer: Any) -> None:  # noqa: B027
        """Apply an answer to a decision."""

    @abstractmethod
    def fail(self, decisions: Decisions, why: Exception) -> None:
        """Let decisions go on without an answer."""

    def part(self, decision: PendingDecision) -> str | None:
        """Name of the called part in `/health/ready`; None: it is not reported, and its exceptions are answers."""
        return None


@dataclass(frozen=True)
class _Features(Stage):
    """Features of the users."""

    reader: FeatureReader
    found: FoundFeatures
    name = "features"

    def ask(self, decision: PendingDecision) -> DecisionRequest:
        return decision.request

    def call(self, asked: Sequence[DecisionRequest], seconds: float, spans: Sequence[Span]) -> Sequence[Any]:
        return self.reader.read(asked)

    def take(self, decision: PendingDecision, answer: ModelInput) -> None:
        decision.features = answer
        self.found.count(answer.has_history)

    def fail(self, decisions: Decisions, why: Exception) -> None:
        # A policy without a server reports itself that it needs features.
        if needing := [decision for decision in decisions if decision.policy.policy is None]:
            fall_back(needing, "features", why)

    def part(self, decision: PendingDecision) -> str:
        return "features"


@dataclass(frozen=True)
class _Model(Stage):
    """The policies' answers."""

    arms: Arms
    budgets: Budgets
    name = "model"

    def ask(self, decision: PendingDecision) -> tuple[Experiment, Arm, dict[str, Any]]:
        decision.prices = self.budgets.pacer.prices(decision.account, decision.request.campaign_id)
        return decision.experiment, decision.policy, decision.item()

    def together(self, decision: PendingDecision) -> object:
        return id(decision.experiment), decision.arm  # of one generation of the experiments

    def call(self, asked: Sequence[Any], seconds: float, spans: Sequence[Span]) -> Sequence[ArmAnswer | ArmError]:
        experiment, policy, _ = asked[0]
        return self.arms.ask(experiment, policy, [item for *_, item in asked], seconds, spans)

    def take(self, decision: PendingDecision, answer: ArmAnswer) -> None:
        decision.take(answer)

    def fail(self, decisions: Decisions, why: Exception) -> None:
        arm = decisions[0].account
        if isinstance(why, TimeoutError):
            fall_back(decisions, "model_timeout", f"{arm} did not answer in time")
        elif isinstance(why, ArmError):
            fall_back(decisions, why.reason, f"arm {arm}: {why}", why.cause)
        else:
            fall_back(decisions, "model_error", why)

    def part(self, decision: PendingDecision) -> str:
        return decision.experiment.key(decision.policy.name)


@dataclass(frozen=True)
class _Ledger(Stage):
    """Reservations for decisions that are to be exposed."""

    budgets: Budgets
    name = "ledger"

    def concerns(self, decision: PendingDecision) -> bool:
        return decision.action.expose  # also a baseline that is the default action

    def ask(self, decision: PendingDecision) -> tuple[Wanted, Experiment]:
        return self.budgets.wanted(decision)

    def call(self, asked: Sequence[Any], seconds: float, spans: Sequence[Span]) -> Sequence[float | Exception | None]:
        return self.budgets.reserve(asked)

    def take(self, decision: PendingDecision, answer: float | None) -> None:
        decision.reserved = answer
        decision.budget_exhausted = not decision.expose

    def fail(self, decisions: Decisions, why: Exception) -> None:
        if isinstance(why, NoAccount):
            fall_back(decisions, "no_account", why)
        elif isinstance(why, AlreadyReserved):
            fall_back(decisions, "repeated", why)  # with nothing to release: the money is another decision's
        else:
            fall_back(decisions, "ledger", why)
            for decision in decisions:
                decision.may_be_reserved = not isinstance(why, BudgetsClosed | NotCalled)


@dataclass(frozen=True)
class _Log(Stage):
    """Records on disk; for the windows of a share of the users no caller waits."""

    spool: Spool
    window_share: float
    name = "log"

    def concerns(self, decision: PendingDecision) -> bool:
        return True

    def ask(self, decision: PendingDecision) -> tuple[DecisionRecord, WindowRecord | None]:
        made = decision.record()
        return made, decision.window_record() if is_sampled(made["unit_hash"], self.window_share) else None

    def call(self, asked: Sequence[Any], seconds: float, spans: Sequence[Span]) -> Sequence[None]:
        self.spool.write("decision", [decision for decision, _ in asked], seconds)
        if windows := [window for _, window in asked if window is not None]:
            with suppress(SpoolUnavailable):  # it is no part of what was promised
                self.spool.submit("window", *windows)
        metrics.SPOOL_RECORDS.inc(len(asked))
        return [None] * len(asked)

    def fail(self, decisions: Decisions, why: Exception) -> None:
        for decision in decisions:
            decision.unlogged = why


@dataclass(frozen=True)
class _RepeatLedger(Stage):
    """Whether the money of previous answers is still reserved.

    If the ledger does not answer, the answer is repeated. That reserves nothing, so "no ledger, no spend" holds: the
    money was reserved, the first answer may have been acted on, and callers retry just when parts are away.
    """

    budgets: Budgets
    name = "ledger"

    def ask(self, decision: PendingDecision) -> Wanted:
        return self.budgets.wanted_before(decision)

    def call(self, asked: Sequence[Wanted], seconds: float, spans: Sequence[Span]) -> Sequence[bool | Exception]:
        return self.budgets.still_pay(asked)

    def take(self, decision: PendingDecision, answer: bool) -> None:
        if not answer:
            decision.before = None

    def fail(self, decisions: Decisions, why: Exception) -> None:
        about = decisions[0].ids(type(why).__name__)
        log.warning("an exposure is repeated without the ledger, %s: %s", about["cause"], why, extra=about)


def decision_stages(
    reader: FeatureReader, found: FoundFeatures, arms: Arms, budgets: Budgets, spool: Spool, window_share: float
) -> list[Stage]:
    """The stages of a decision; windows of `window_share` of the users are logged."""
    return [_Features(reader, found), _Model(arms, budgets), _Ledger(budgets), _Log(spool, window_share)]


def repeat_stages(budgets: Budgets) -> list[Stage]:
    """The stages of a repeated exposure: whether its money is still reserved."""
    return [_RepeatLedger(budgets)]


class Breaker:
    """The circuit breaker of one part."""

    def __init__(self) -> None:
        self._failures = 0
        self._since = 0.0  # the first failure
        self._ask_again = 0.0

    def lets_through(self) -> bool:
        """Whether this request may call the part."""
        now = monotonic()
        if self._failures < FAILURES or now < self._since + SILENT_SECONDS:
            return True
        if now < self._ask_again:
            return False
        self._ask_again = now + _PAUSE_SECONDS
        return True

    def report(self, answered: bool, requests: int = 1) -> None:
        """Count requests that the part answered or failed."""
        if answered:
            self._failures = 0
            return
        if not self._failures and requests:
            self._since = monotonic()
        self._failures += requests


class _Share(NamedTuple):
    """A job's part of a call."""

    job: Job
    decisions: Decisions
    questions: Sequence[Any]
    seconds: float

    def traits(self) -> dict[str, AttributeValue]:
        """Attributes of its span: of the one decision, or what those of a request have in common, and their ids."""
        of, ids = self.decisions[0], [decision.decision_id for decision in self.decisions]
        if len(ids) == 1:
            return of.traits()
        return {"experiment": of.experiment.name, "arm": of.arm, "decisions": len(ids), "decision_ids": ids}


class Pipeline:
    """Takes jobs through stages, in the calling thread; `breakers` are those of all pipelines, by part."""

    def __init__(
        self, stages: Sequence[Stage], health: Health, drills: Drills, breakers: Mapping[str, Breaker]
    ) -> None:
        self._stages = {stage.name: stage for stage in stages}
        self._following: dict[metrics.Stage, metrics.Stage] = dict(pairwise(self._stages))
        self._health = health
        self._drills = drills
        self._breakers = breakers

    def __call__(self, jobs: Sequence[Job]) -> None:
        """Take jobs through the stages that lie ahead of them."""
        for stage in self._stages.values():
            calls: dict[object, list[_Share]] = {}
            for job in jobs:
                with job.lock:
                    if (share := _begin(stage, job)) is not None:
                        calls.setdefault(stage.together(share.decisions[0]), []).append(share)
            for shares in calls.values():
                self._run(stage, shares)

    def give_up(self, job: Job, why: NotCalled | TimeoutError) -> metrics.Stage | None:
        """Skip the present stage of a job that was taken over; returns the next one."""
        stage = self._stages[job.stage]
        if decisions := [decision for decision in job.decisions if stage.concerns(decision)]:
            if isinstance(why, TimeoutError):
                self._report(stage, stage.part(decisions[0]), why, 1)
            _fail(stage, job, decisions, why)
        return self._following.get(stage.name)

    def _run(self, stage: Stage, shares: Sequence[_Share]) -> None:
        seconds, part = max(share.seconds for share in shares), stage.part(shares[0].decisions[0])
        answers: Sequence[Any] | Exception
        fault: Exception | None = None
        start = perf_counter()
        try:
            with tracing.spans(stage.name, ((share.traits, share.decisions[0].span) for share in shares)) as spans:
                if not self._breakers[part or stage.name].lets_through():
                    raise NotCalled(f"{part or stage.name} does not answer: its circuit breaker is open")
                self._drills.inject(stage.name, seconds)
                answers = stage.call([question for share in shares for question in share.questions], seconds, spans)
        except Exception as error:
            answers = fault = error
        took, first = perf_counter() - start, 0
        if not isinstance(fault, NotCalled):
            if took > seconds:  # whatever it answers by now
                fault = TimeoutError(f"the stage {stage.name} did not end in time")
            # `give_up` has counted those that were taken over.
            self._report(stage, part, fault, sum(not share.job.taken for share in shares))
        for job, decisions, *_ in shares:
            for arm in {decision.account for decision in decisions}:
                metrics.STAGE_LATENCY.labels(stage.name, *metrics.arm_labels(arm)).observe(took)
            mine = answers if isinstance(answers, Exception) else answers[first : first + len(decisions)]
            first += len(decisions)
            with job.lock:
                if not job.taken:
                    self._end(stage, job, decisions, mine)

    def _end(self, stage: Stage, job: Job, decisions: Decisions, answers: Sequence[Any] | Exception) -> None:
        try:
            if isinstance(answers, Exception):
                _fail(stage, job, decisions, answers)
            else:
                for decision, answer in zip(decisions, answers, strict=True):
                    if isinstance(answer, Exception):
                        stage.fail([decision], answer)
                    else:
                        stage.take(decision, answer)
        except Exception as bug:  # concerns this job alone
            job.bug = bug
        if (following := self._following.get(stage.name)) is None:
            job.finish()
        else:
            job.waits_for(following)

    def _report(self, stage: Stage, part: str | None, fault: Exception | None, requests: int) -> None:
        """Count requests that a part answered or failed; of a part that health does not know, timeouts alone fail."""
        if part is not None:
            self._health.report(part, fault)
        answered = fault is None or (part is None and not isinstance(fault, TimeoutError))
        self._breakers[part or stage.name].report(answered, requests)


def _begin(stage: Stage, job: Job) -> _Share | None:
    """A job's part of a call; None: it needs nothing, its time is over, or it was taken over."""
    if not job.comes_to(stage.name):
        return None
    asking, questions, seconds = [], [], job.deadline.left(stage.name)
    try:
        decisions = [decision for decision in job.decisions if stage.concerns(decision)]
        if decisions and seconds <= 0:
            _fail(stage, job, decisions, NotCalled(f"before the stage {stage.name}", late=True))
            decisions = []
        for decision in decisions:
            try:
                questions.append(stage.ask(decision))
                asking.append(decision)
            except Exception as error:
                stage.fail([decision], error)
    except Exception as bug:
        job.bug = bug
        return None
    job.waits_for(stage.name, calling=bool(asking))
    return _Share(job, asking, questions, seconds) if asking else None


def _fail(stage: Stage, job: Job, decisions: Decisions, why: Exception) -> None:
    job.deadline.late |= isinstance(why, TimeoutError) or (isinstance(why, NotCalled) and why.late)
    stage.fail(decisions, why)


def fall_back(decisions: Decisions, reason: FallbackReason, why: object, cause: str | None = None) -> None:
    """Take the default action, and log why; `cause` is a short code for the log, by default the reason."""
    if isinstance(why, NotCalled) and why.late:
        reason = "no_time"
    for decision in decisions:
        decision.fall_back(reason)
    words = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else why
    log.warning("default action, %s: %s", reason, words, extra=decisions[0].ids(cause or reason))
