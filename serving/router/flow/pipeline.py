"""The stages of decisions: features, the arm, the ledger and the log, each in one call for all jobs of a lane's thread.

A fault concerns as few as possible: one user's features, one answer, one reservation, or else all that share the call.
Whoever lacks something takes the default action, and goes on to the later stages with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from mtorl.log.records import DecisionRecord, FallbackReason
from serving.decision_log import Spool
from serving.ledger import AlreadyReserved
from serving.router.flow.arm_answers import ArmAnswer, ArmError
from serving.router.flow.arms import Arms
from serving.router.flow.budgets import Budgets, BudgetsClosed, NoAccount
from serving.router.flow.features import FeatureReader, ModelInput
from serving.router.flow.lane import Job, TakenOver
from serving.router.flow.pending_decision import PendingDecision
from serving.router.flow.stages import LeftAlone, NoTimeLeft, Stages
from serving.router.ops import metrics, tracing
from serving.router.ops.found_features import FoundFeatures

if TYPE_CHECKING:
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

Decisions = Sequence[PendingDecision]
Spans = Sequence["Span | None"]


@dataclass(frozen=True)
class Stage:
    """A stage of a decision.

    Attributes:
        name: Of the stage.
        concerns: Whether a decision needs it.
        call: Works for decisions, in so many seconds and for these spans; an answer for each, or an exception.
        take: Lets a decision have its answer.
        fail: Lets decisions do without it.
        part: What a decision calls, if health is told of it.
        together: Decisions for which this is equal share a call.
        traits: What a span says of it; None: what one says of each single decision.
    """

    name: metrics.Stage
    concerns: Callable[[PendingDecision], bool]
    call: Callable[[Decisions, float, Spans], Sequence[Any]]
    take: Callable[[PendingDecision, Any], None]
    fail: Callable[[Decisions, Exception], None]
    part: Callable[[PendingDecision], str | None] = lambda _: None
    together: Callable[[PendingDecision], object] = lambda _: None
    traits: Callable[[Decisions], dict[str, str | int]] | None = None


def features(reader: FeatureReader, found: FoundFeatures) -> Stage:
    """What is known of the users."""

    def take(decision: PendingDecision, answer: ModelInput) -> None:
        decision.features = answer
        found.count(answer.has_history)

    def fail(decisions: Decisions, why: Exception) -> None:
        # A policy that needs no server says itself whether it needs them.
        if needing := [decision for decision in decisions if decision.policy.policy is None]:
            fall_back(needing, "features", why)

    return Stage(
        "features",
        concerns=_is_sound,
        call=lambda decisions, *_: reader.read([decision.request for decision in decisions]),
        take=take,
        fail=fail,
        part=lambda _: "features",
        traits=lambda _: {},
    )


def model(arms: Arms, budgets: Budgets) -> Stage:
    """The policies' answers."""

    def call(decisions: Decisions, seconds: float, spans: Spans) -> Sequence[ArmAnswer | ArmError]:
        for decision in decisions:
            decision.prices = budgets.pacer.prices(decision.account, decision.request.campaign_id)
        items = [decision.item() for decision in decisions]
        return arms.ask(decisions[0].experiment, decisions[0].policy, items, seconds, spans)

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
        call=call,
        take=PendingDecision.take,
        fail=fail,
        part=lambda decision: decision.experiment.key(decision.policy.name),
        together=lambda decision: (id(decision.experiment), decision.arm),  # of one generation of the experiments
        traits=traits,
    )


def money(budgets: Budgets) -> Stage:
    """Reservations for those that are to be exposed."""

    def take(decision: PendingDecision, answer: float | None) -> None:
        decision.reserved = answer
        decision.budget_exhausted = not decision.expose

    def fail(decisions: Decisions, why: Exception) -> None:
        if isinstance(why, NoAccount):
            fall_back(decisions, "no_account", why)
        elif isinstance(why, AlreadyReserved):
            fall_back(decisions, "repeated", why)  # and nothing to give back: the money is another decision's
        else:
            fall_back(decisions, "ledger", why)
            for decision in decisions:
                decision.may_be_reserved = not isinstance(why, BudgetsClosed | NoTimeLeft | LeftAlone)

    return Stage(
        "ledger",
        concerns=lambda decision: decision.action.expose,  # a default action that exposes, a baseline, needs it as well
        call=lambda decisions, *_: budgets.reserve(decisions),
        take=take,
        fail=fail,
    )


def record(spool: Spool) -> Stage:
    """Records on disk."""

    def call(decisions: Decisions, seconds: float, _: Spans) -> Sequence[Exception | None]:
        made = [_record(decision) for decision in decisions]
        written = spool.submit("decision", *(record for record in made if not isinstance(record, Exception)))
        try:
            written.result(seconds)
        except TimeoutError:
            written.cancel()  # takes the records back, unless they are being written just now
            raise
        return [record if isinstance(record, Exception) else None for record in made]

    def fail(decisions: Decisions, why: Exception) -> None:
        for decision in decisions:
            decision.unlogged = why

    return Stage("log", concerns=lambda _: True, call=call, take=lambda *_: metrics.SPOOL_RECORDS.inc(), fail=fail)


def still_paid(budgets: Budgets) -> Stage:
    """Whether the money of answers that were given before is still set aside.

    If the ledger can't say, the answer is repeated. That reserves nothing, so the rule that nobody spends without a
    ledger does not forbid it; the money was set aside, the first answer may have been acted on, and callers ask again
    just when parts are away.
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
        call=lambda decisions, *_: budgets.still_pay(decisions),
        take=take,
        fail=fail,
    )


class Pipeline:
    """Takes jobs through stages, in the calling thread.

    Args:
        stages: In order.
        around: What surrounds each of them.
    """

    def __init__(self, stages: Sequence[Stage], around: Stages) -> None:
        self._stages = stages
        self._around = around

    def __call__(self, jobs: Sequence[Job]) -> None:
        """Take jobs through the stages that lie before them."""
        for stage in self._stages:
            calls: dict[object, list[_Share]] = {}
            for job in jobs:
                if job.comes_to(stage.name) and (decisions := _concerned(stage, job)):
                    calls.setdefault(stage.together(decisions[0]), []).append(_Share(job, decisions))
            for shares in calls.values():
                self._run(stage, shares)

    def give_up(self, job: Job, over: TakenOver) -> metrics.Stage | None:
        """Do without the stage for which a job was taken over.

        Returns:
            The next one; None: there is none.
        """
        job.deadline.missed()
        names = [stage.name for stage in self._stages]
        at = names.index(job.stage)
        stage = self._stages[at]
        if decisions := _concerned(stage, job):
            why: Exception = NoTimeLeft(f"before the stage {stage.name}")
            if over.calling is not None:
                why = TimeoutError(f"the stage {stage.name} did not end in time")
                self._around.failed(stage.name, stage.part(decisions[0]), why)
            stage.fail(decisions, why)
        return names[at + 1] if at + 1 < len(names) else None

    def _run(self, stage: Stage, shares: Sequence[_Share]) -> None:
        """One call; whose time is over is left out of it."""
        asked, seconds = [], 0.0
        for share in shares:
            left = share.job.deadline.left(stage.name)
            if left > 0:
                asked.append(share)
                seconds = max(seconds, left)
                share.job.begin(stage.name, left)
            else:
                share.job.deadline.missed()
                stage.fail(share.decisions, NoTimeLeft(f"before the stage {stage.name}"))
        if not asked:
            return
        answers: Sequence[Any] | Exception
        start, part = perf_counter(), stage.part(asked[0].decisions[0])
        try:
            with _traced(stage, asked) as spans, self._around.run(stage.name, seconds, part, len(asked)):
                answers = stage.call([decision for share in asked for decision in share.decisions], seconds, spans)
        except Exception as error:
            answers = error
        took, first = perf_counter() - start, 0
        for job, decisions in asked:
            for arm in {decision.account for decision in decisions}:
                metrics.STAGE_LATENCY.labels(stage.name, *metrics.arm_labels(arm)).observe(took)
            mine = answers if isinstance(answers, Exception) else answers[first : first + len(decisions)]
            first += len(decisions)
            if job.end():
                _apply(stage, job, decisions, mine)


class _Share(NamedTuple):
    """What a job wants of a stage."""

    job: Job
    decisions: Decisions


def _is_sound(decision: PendingDecision) -> bool:
    return not decision.fault


def _concerned(stage: Stage, job: Job) -> list[PendingDecision]:
    return [decision for decision in job.decisions if stage.concerns(decision)]


def _apply(stage: Stage, job: Job, decisions: Decisions, answers: Sequence[Any] | Exception) -> None:
    try:
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
    except Exception as bug:  # concerns this job alone
        job.bug = bug


@contextmanager
def _traced(stage: Stage, shares: Sequence[_Share]) -> Iterator[list[Span | None]]:
    """Spans of a stage, of those requests that are traced; those that a call belongs to."""
    with ExitStack() as stack:
        spans: list[Span | None] = []
        for _, decisions in shares:
            for those in [decisions] if stage.traits else [[decision] for decision in decisions]:
                of = those[0].span
                traits = partial(stage.traits, those) if stage.traits else those[0].traits
                part = stack.enter_context(tracing.span(stage.name, traits, of))
                spans.append(part.span or of)
        yield spans


def _record(decision: PendingDecision) -> DecisionRecord | Exception:
    try:
        return decision.record()
    except Exception as error:  # what is wrong with one record is no fault of the others
        return error


def fall_back(decisions: Decisions, reason: FallbackReason, why: object, cause: str | None = None) -> None:
    """Take the default action.

    Args:
        decisions: Of whom.
        reason: As the record has it, unless it was just too late.
        why: For the log.
        cause: The same in a word.
    """
    reason = "no_time" if isinstance(why, NoTimeLeft) else reason
    for decision in decisions:
        decision.fall_back(reason)
    words = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else why
    log.warning("default action, %s: %s", reason, words, extra=decisions[0].ids(cause or reason))
