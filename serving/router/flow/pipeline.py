"""The stages of decisions: features, the arm, the ledger and the log, each in one call for a batch of jobs.

A fault concerns as few decisions as possible: one user's features, one answer, one reservation, or all that share the
call. A decision that lacks something takes the default action through the later stages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple

from opentelemetry.trace import Span

from mtorl.experiment.arm import Arm
from mtorl.experiment.experiment import Experiment
from mtorl.log.records import DecisionRecord, FallbackReason, WindowRecord, is_sampled
from serving.decision_log import Spool, SpoolUnavailable
from serving.ledger import AlreadyReserved
from serving.router.flow.arm_answers import ArmAnswer, ArmError
from serving.router.flow.arms import Arms
from serving.router.flow.budgets import Budgets, BudgetsClosed, NoAccount
from serving.router.flow.features import FeatureReader, ModelInput
from serving.router.flow.lane import Job, TakenOver
from serving.router.flow.pending_decision import PendingDecision
from serving.router.flow.stages import LeftAlone, NoTimeLeft, Stages
from serving.router.ops import metrics, tracing
from serving.router.ops.health import FoundFeatures

log = logging.getLogger(__name__)

Decisions = Sequence[PendingDecision]
Spans = Sequence[Span]


@dataclass(frozen=True)
class Stage:
    """A stage of a decision.

    Attributes:
        concerns: Whether a decision needs the stage.
        ask: Makes the question for a decision, which no other thread changes meanwhile.
        call: Answers questions within seconds, for spans; an exception stands for a missing answer.
        take: Applies an answer to a decision.
        fail: Lets decisions go on without an answer.
        part: Name of the called part in `/health/ready`, if it is reported.
        together: Decisions with equal values share a call.
        traits: Attributes of one span for all decisions; None: one span for each decision.
    """

    name: metrics.Stage
    concerns: Callable[[PendingDecision], bool]
    ask: Callable[[PendingDecision], Any]
    call: Callable[[Sequence[Any], float, Spans], Sequence[Any]]
    take: Callable[[PendingDecision, Any], None]
    fail: Callable[[Decisions, Exception], None]
    part: Callable[[PendingDecision], str | None] = lambda _: None
    together: Callable[[PendingDecision], object] = lambda _: None
    traits: Callable[[Decisions], dict[str, str | int]] | None = None


def features(reader: FeatureReader, found: FoundFeatures) -> Stage:
    """Features of the users."""

    def take(decision: PendingDecision, answer: ModelInput) -> None:
        decision.features = answer
        found.count(answer.has_history)

    def fail(decisions: Decisions, why: Exception) -> None:
        # A policy without a server reports itself that it needs features.
        if needing := [decision for decision in decisions if decision.policy.policy is None]:
            fall_back(needing, "features", why)

    return Stage(
        "features",
        concerns=_is_sound,
        ask=lambda decision: decision.request,
        call=lambda requests, *_: reader.read(requests),
        take=take,
        fail=fail,
        part=lambda _: "features",
        traits=lambda _: {},
    )


def model(arms: Arms, budgets: Budgets) -> Stage:
    """The policies' answers."""

    def ask(decision: PendingDecision) -> tuple[Experiment, Arm, dict[str, Any]]:
        decision.prices = budgets.pacer.prices(decision.account, decision.request.campaign_id)
        return decision.experiment, decision.policy, decision.item()

    def call(asked: Sequence[Any], seconds: float, spans: Spans) -> Sequence[ArmAnswer | ArmError]:
        experiment, policy, _ = asked[0]
        return arms.ask(experiment, policy, [item for *_, item in asked], seconds, spans)

    def fail(decisions: Decisions, why: Exception) -> None:
        arm = decisions[0].account
        if isinstance(why, TimeoutError):
            fall_back(decisions, "model_timeout", f"{arm} did not answer in time")
        elif isinstance(why, ArmError):
            fall_back(decisions, why.reason, f"arm {arm}: {why}", why.cause)
        else:
            fall_back(decisions, "model_error", why)

    def traits(decisions: Decisions) -> dict[str, str | int]:
        of = decisions[0]
        return {"experiment": of.experiment.name, "arm": of.policy.name, "decisions": len(decisions)}

    return Stage(
        "model",
        concerns=_is_sound,
        ask=ask,
        call=call,
        take=lambda decision, answer: decision.take(answer),
        fail=fail,
        part=lambda decision: decision.experiment.key(decision.policy.name),
        together=lambda decision: (id(decision.experiment), decision.arm),  # of one generation of the experiments
        traits=traits,
    )


def money(budgets: Budgets) -> Stage:
    """Reservations for decisions that are to be exposed."""

    def take(decision: PendingDecision, answer: float | None) -> None:
        decision.reserved = answer
        decision.budget_exhausted = not decision.expose

    def fail(decisions: Decisions, why: Exception) -> None:
        if isinstance(why, NoAccount):
            fall_back(decisions, "no_account", why)
        elif isinstance(why, AlreadyReserved):
            fall_back(decisions, "repeated", why)  # with nothing to release: the money is another decision's
        else:
            fall_back(decisions, "ledger", why)
            for decision in decisions:
                decision.may_be_reserved = not isinstance(why, BudgetsClosed | NoTimeLeft | LeftAlone)

    return Stage(
        "ledger",
        concerns=lambda decision: decision.action.expose,  # also a baseline that is the default action
        ask=budgets.wanted,
        call=lambda wanted, *_: budgets.reserve(wanted),
        take=take,
        fail=fail,
    )


def record(spool: Spool, window_share: float) -> Stage:
    """Records on disk; for the windows of a share of the users no caller waits."""

    def ask(decision: PendingDecision) -> tuple[DecisionRecord, WindowRecord | None]:
        made = decision.record()
        return made, decision.window_record() if is_sampled(made["unit_hash"], window_share) else None

    def call(made: Sequence[tuple[DecisionRecord, WindowRecord | None]], seconds: float, _: Spans) -> Sequence[None]:
        spool.write("decision", [decision for decision, _ in made], seconds)
        if windows := [window for _, window in made if window is not None]:
            with suppress(SpoolUnavailable):  # it is no part of what was promised
                spool.submit("window", *windows)
        return [None] * len(made)

    def fail(decisions: Decisions, why: Exception) -> None:
        for decision in decisions:
            decision.unlogged = why

    return Stage(
        "log",
        concerns=lambda _: True,
        ask=ask,
        call=call,
        take=lambda *_: metrics.SPOOL_RECORDS.inc(),
        fail=fail,
    )


def still_paid(budgets: Budgets) -> Stage:
    """Whether the money of previous answers is still reserved.

    If the ledger does not answer, the answer is repeated. That reserves nothing, so "no ledger, no spend" holds: the
    money was reserved, the first answer may have been acted on, and callers retry just when parts are away.
    """

    def take(decision: PendingDecision, answer: bool) -> None:
        if not answer:
            decision.before = None

    def fail(decisions: Decisions, why: Exception) -> None:
        about = decisions[0].ids(type(why).__name__)
        log.warning("an exposure is repeated without the ledger, %s: %s", about["cause"], why, extra=about)

    return Stage(
        "ledger",
        concerns=lambda _: True,
        ask=budgets.wanted_before,
        call=lambda wanted, *_: budgets.still_pay(wanted),
        take=take,
        fail=fail,
    )


class Pipeline:
    """Takes jobs through stages, in the calling thread."""

    def __init__(self, stages: Sequence[Stage], around: Stages) -> None:
        self._stages = stages
        self._around = around

    def __call__(self, jobs: Sequence[Job]) -> None:
        """Take jobs through the stages that lie ahead of them."""
        for at, stage in enumerate(self._stages):
            calls: dict[object, list[_Share]] = {}
            for job in jobs:
                if (share := _begin(stage, job)) is not None:
                    calls.setdefault(stage.together(share.decisions[0]), []).append(share)
            for shares in calls.values():
                self._run(stage, shares, self._following(at))

    def give_up(self, job: Job, why: TakenOver | LeftAlone) -> metrics.Stage | None:
        """Skip the present stage of a job; returns the next one."""
        at = [stage.name for stage in self._stages].index(job.stage)
        stage = self._stages[at]
        error: Exception = why
        if isinstance(why, TakenOver):
            job.deadline.missed()
            error = NoTimeLeft(f"before the stage {stage.name}")
        if decisions := [decision for decision in job.decisions if stage.concerns(decision)]:
            if isinstance(why, TakenOver) and why.calling:
                error = TimeoutError(f"the stage {stage.name} did not end in time")
                self._around.failed(stage.name, stage.part(decisions[0]), error, 1)
            stage.fail(decisions, error)
        return self._following(at)

    def _following(self, at: int) -> metrics.Stage | None:
        return self._stages[at + 1].name if at + 1 < len(self._stages) else None

    def _run(self, stage: Stage, shares: Sequence[_Share], following: metrics.Stage | None) -> None:
        answers: Sequence[Any] | Exception
        seconds, part = max(share.seconds for share in shares), stage.part(shares[0].decisions[0])
        start = perf_counter()
        try:
            with (
                _traced(stage, shares) as spans,
                self._around.run(stage.name, seconds, part, lambda: sum(not share.job.taken for share in shares)),
            ):
                answers = stage.call([question for share in shares for question in share.questions], seconds, spans)
        except Exception as error:
            answers = error
        took, first = perf_counter() - start, 0
        for job, decisions, *_ in shares:
            for arm in {decision.account for decision in decisions}:
                metrics.STAGE_LATENCY.labels(stage.name, *metrics.arm_labels(arm)).observe(took)
            mine = answers if isinstance(answers, Exception) else answers[first : first + len(decisions)]
            first += len(decisions)
            if not job.hold():
                continue
            try:
                _apply(stage, job, decisions, mine)
            except Exception as bug:  # concerns this job alone
                job.bug = bug
            if following is not None or job.bug is not None:
                job.release(following or stage.name)


class _Share(NamedTuple):
    job: Job
    decisions: Decisions
    questions: Sequence[Any]
    seconds: float


def _begin(stage: Stage, job: Job) -> _Share | None:
    """A job's part of a call; None: it needs nothing, its time is over, or it was taken over."""
    if not job.comes_to(stage.name) or not job.hold():
        return None
    decisions, questions, seconds = [], [], job.deadline.left(stage.name)
    try:
        concerned = [decision for decision in job.decisions if stage.concerns(decision)]
        if concerned and seconds <= 0:
            job.deadline.missed()
            stage.fail(concerned, NoTimeLeft(f"before the stage {stage.name}"))
            concerned = []
        for decision in concerned:
            try:
                questions.append(stage.ask(decision))
                decisions.append(decision)
            except Exception as error:
                stage.fail([decision], error)
    except Exception as bug:
        job.bug = bug
    job.release(stage.name, calling=bool(decisions) and job.bug is None)
    return _Share(job, decisions, questions, seconds) if decisions and job.bug is None else None


def _is_sound(decision: PendingDecision) -> bool:
    return not decision.fault


def _apply(stage: Stage, job: Job, decisions: Decisions, answers: Sequence[Any] | Exception) -> None:
    if isinstance(answers, Exception):
        if isinstance(answers, TimeoutError):
            job.deadline.missed()
        stage.fail(decisions, answers)
        return
    for decision, answer in zip(decisions, answers, strict=True):
        if isinstance(answer, Exception):
            stage.fail([decision], answer)
        else:
            stage.take(decision, answer)


@contextmanager
def _traced(stage: Stage, shares: Sequence[_Share]) -> Iterator[list[Span]]:
    """Spans of a stage, which a call belongs to."""
    with ExitStack() as stack:
        spans: list[Span] = []
        for _, decisions, *_ in shares:
            for those in [decisions] if stage.traits else [[decision] for decision in decisions]:
                of = those[0].span
                traits = partial(stage.traits, those) if stage.traits else those[0].traits
                spans.append(stack.enter_context(tracing.span(stage.name, traits, of)))
        yield spans


def fall_back(decisions: Decisions, reason: FallbackReason, why: object, cause: str | None = None) -> None:
    """Take the default action, and log why; `cause` is a short code for the log, by default the reason."""
    reason = "no_time" if isinstance(why, NoTimeLeft) else reason
    for decision in decisions:
        decision.fall_back(reason)
    words = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else why
    log.warning("default action, %s: %s", reason, words, extra=decisions[0].ids(cause or reason))
