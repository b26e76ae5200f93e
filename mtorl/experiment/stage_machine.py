"""Decides when an experiment moves to another stage, from its file, its history and evidence from the log.

    state = state_of(events, experiment)          # `mtorl.experiment.history`
    consider(experiment, state, evidence, now)    # Move("5%", "48 hours, 812 users in each arm ...") or Hold(...)
    in_force(experiment, state)                   # the experiment as routers apply it

    draft -> shadow -> 1% -> 5% -> 25% -> 50% -> promoted
                 any stage -> stopped (worse, or no verdict in time) | rolled back (harm)

The caller is a command on a laptop or an operator on a cluster. It first writes a move into the history, then applies
it. After a crash, both steps can be repeated.

A futile experiment is stopped only at the last stage, because in earlier stages few users get a challenger. A breached
guardrail causes an immediate rollback. The guardrail's bound is always valid, so frequent checks do not raise the rate
of false alarms above the experiment's alpha.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any, Literal, NamedTuple, get_args

from mtorl.experiment import messages
from mtorl.experiment.arm import INCUMBENT, Arm
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.inference.verdict import Token
from mtorl.experiment.stages import Ramp, RampStage, Stage
from mtorl.runtime.message import Message, joined

Phase = Literal["draft", "shadow", "1%", "5%", "25%", "50%", "promoted", "stopped", "rolled back"]
# The phases in which an experiment runs, in order.
STAGES: tuple[Stage, ...] = get_args(Stage)
OVER: tuple[Phase, ...] = ("promoted", "stopped", "rolled back")
FAULTS = ("fallback_ratio", "latency_seconds")
"""Requirements that are measured over all decisions of a stage. If the first decisions had many faults, they may stay
unmet for the rest of the stage."""


@dataclass(frozen=True)
class State:
    """The current state of an experiment, computed from the events in its history."""

    phase: Phase = "draft"
    # Time when the phase began or the kill switch was switched off, in seconds since 1970. A draft has None.
    since: float | None = None
    # Whether an event switched the kill switch on.
    killed: bool = False
    events: int = 0
    # After a promotion or rollback: how the incumbent answers, as returned by `answering`. None if it answers as the
    # experiment file says.
    incumbent: Mapping[str, Any] | None = None
    # After a promotion: how the replaced incumbent answered, as returned by `answering`. A rollback restores this.
    replaced: Mapping[str, Any] | None = None
    # Result of `fixed_fields` at the start of the experiment; None for a draft.
    fixed: Mapping[str, Any] | None = None


class ArmEvidence(NamedTuple):
    """Figures about one arm at the current stage, from the decision log."""

    # Number of users in the verdict. In the shadow stage, the number of users for whom the arm was queried.
    users: int
    # Share of the arm's decisions that are fallbacks. In the shadow stage, the share of its answers that failed.
    fallback_ratio: float = 0.0
    # 99th percentile in seconds. In the shadow stage, it is unknown (NaN).
    latency_seconds: float = math.nan


@dataclass(frozen=True)
class Evidence:
    """The figures from the decision log that decide whether an experiment moves."""

    token: Token  # token of the current verdict
    reason: Message
    challenger: str
    # One message for each breached guardrail.
    breached: tuple[Message, ...]
    # Figures by the arm's name, without arms that have no decisions.
    arms: Mapping[str, ArmEvidence]
    # For display only: users, lift and interval of the challenger.
    effect: Mapping[str, Any] | None = None


class Move(NamedTuple):
    """A decision to move an experiment to another phase, with the reason."""

    to: Phase
    reason: Message
    challenger: str | None = None  # the promoted arm


class Hold(NamedTuple):
    """A decision to stay in the current phase, with the reasons."""

    reasons: tuple[Message, ...]


class Requirement(NamedTuple):
    """One requirement for leaving a stage, with the value found and the value needed."""

    kind: Literal["hours", "users", "fallback_ratio", "latency_seconds"]
    # None if the requirement concerns the whole stage.
    arm: str | None
    found: float
    needed: float
    # Message for an unmet requirement.
    words: Message

    @property
    def met(self) -> bool:
        """Return whether the requirement is met."""
        return self.found <= self.needed if self.kind in FAULTS else self.found >= self.needed


def consider(experiment: Experiment, state: State, evidence: Evidence | None, now: float) -> Move | Hold:
    """Decide whether an experiment moves to another phase now.

    Args:
        evidence: Figures from the decision log. None means that there are no figures yet.
        now: Current time, in seconds since 1970.
    """
    ramp = experiment.ramp
    if ramp is None:
        return Hold((messages.NO_RAMP(),))
    if state.phase in OVER:
        return Hold((messages.OVER(phase=state.phase),))
    if state.killed or not experiment.enabled:
        return Hold((messages.KILL_SWITCH_ON(),))
    if state.phase == "draft":
        return _leave_draft(experiment, ramp.stages[0].stage, now)
    if evidence is not None and evidence.token == "srm":
        return Hold((evidence.reason,))
    if evidence is not None and evidence.breached:
        return Move("rolled back", joined(evidence.breached))
    if evidence is not None and evidence.token == "stop":
        return Move("stopped", evidence.reason)
    wins = evidence is not None and evidence.token == "ship"
    if experiment.planned_end is not None and now >= experiment.planned_end.timestamp() and not wins:
        return Move("stopped", messages.PLANNED_END(verdict=_verdict(evidence)))
    following = next((step.stage for step in stages_to_come(ramp, state)), None)
    (stage,) = (stage for stage in STAGES if stage == state.phase)
    known = next((step for step in ramp.stages if step.stage == stage), None)
    if known is None and following is not None:
        return Hold((messages.STAGE_NOT_IN_RAMP(stage=stage),))
    if following is None and evidence is not None and evidence.token == "futile":
        return Move("stopped", evidence.reason)
    step = known or RampStage(stage=stage, hours=0.0, users=0)
    waits = lacking(_requirements(experiment, step, state, evidence, now))
    if not waits and (evidence is None or INCUMBENT not in evidence.arms):
        waits = [messages.NO_EVIDENCE()]
    if waits:
        return Hold(tuple(waits))
    if following is not None:
        return Move(following, _grown(step, evidence))
    if evidence is not None and wins and ramp.promote:
        return Move("promoted", evidence.reason, evidence.challenger)
    if evidence is not None and wins:
        return Hold((messages.WINS(challenger=evidence.challenger, verdict=evidence.reason),))
    return Hold((messages.LAST_STAGE(verdict=_verdict(evidence)),))


def _verdict(evidence: Evidence | None) -> Message:
    return messages.NO_EVIDENCE() if evidence is None else evidence.reason


def _leave_draft(experiment: Experiment, first: Stage, now: float) -> Move | Hold:
    if experiment.start is None:
        return Hold((messages.DRAFT(stage=first),))
    start = f"{experiment.start.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    if now < experiment.start.timestamp():
        return Hold((messages.STARTS_LATER(start=start),))
    return Move(first, messages.STARTS(start=start))


def stages_to_come(ramp: Ramp | None, state: State) -> list[RampStage]:
    """Return the stages of the ramp that come after the current phase."""
    if ramp is None or state.phase in OVER:
        return []
    here = -1 if state.phase == "draft" else STAGES.index(state.phase)
    return [step for step in ramp.stages if STAGES.index(step.stage) > here]


def requirements(
    experiment: Experiment, state: State, evidence: Evidence | None, now: float
) -> tuple[Requirement, ...]:
    """Return the requirements for leaving the current stage, or none if it is not in the ramp."""
    steps = () if experiment.ramp is None else experiment.ramp.stages
    step = next((step for step in steps if step.stage == state.phase), None)
    return () if step is None else tuple(_requirements(experiment, step, state, evidence, now))


def _requirements(
    experiment: Experiment, step: RampStage, state: State, evidence: Evidence | None, now: float
) -> Iterator[Requirement]:
    assert experiment.ramp is not None
    hours = max(0.0, (now - state.since) / 3600) if state.since is not None else 0.0
    factor, unit = (60, "minutes") if 0 < step.hours < 1 else (1, "hours")
    words = messages.HOURS(found=factor * hours, needed=factor * step.hours, unit=unit, stage=step.stage)
    yield Requirement("hours", None, hours, step.hours, words)
    arms = {} if evidence is None else evidence.arms
    serving = [arm.name for arm in experiment.arms if arm.name == INCUMBENT or arm.weight > 0]
    for name in serving:
        if step.stage == "shadow" and name == INCUMBENT:
            continue
        users = arms[name].users if name in arms else 0
        yield Requirement("users", name, users, step.users, messages.USERS(found=users, needed=step.users, arm=name))
    incumbent = arms.get(INCUMBENT)
    if incumbent is None:
        return
    for name in serving:
        if name == INCUMBENT or name not in arms:
            continue
        ratio = arms[name].fallback_ratio
        allowed = experiment.ramp.fallback_ratio + (0.0 if step.stage == "shadow" else incumbent.fallback_ratio)
        words = messages.FALLBACK_RATIO(arm=name, found=ratio, allowed=allowed)
        yield Requirement("fallback_ratio", name, ratio, allowed, words)
        later = arms[name].latency_seconds - incumbent.latency_seconds
        if not math.isnan(later):
            allowed = experiment.ramp.latency_seconds
            words = messages.LATENCY(arm=name, found=1000 * later, allowed=1000 * allowed)
            yield Requirement("latency_seconds", name, later, allowed, words)


def lacking(needed: Iterable[Requirement]) -> list[Message]:
    """Return one message for each unmet requirement and, if faults cause one, how to ignore past faults."""
    unmet = [one for one in needed if not one.met]
    words = [one.words for one in unmet]
    return [*words, messages.OLD_FAULTS()] if any(one.kind in FAULTS for one in unmet) else words


def _grown(step: RampStage, evidence: Evidence | None) -> Message:
    arms = {} if evidence is None else evidence.arms
    users = ", ".join(f"{arm.users:,} users of {name}" for name, arm in arms.items())
    lasted = f"{60 * step.hours:g} minutes" if 0 < step.hours < 1 else f"{step.hours:g} hours"
    return messages.STAGE_DONE(lasted=lasted, stage=step.stage, users=users)


def may_move(state: State, to: Phase, by: Literal["ramp", "person"]) -> Message | None:
    """Return why a move to another phase is not allowed, or None if it is allowed."""
    if to == "draft":
        return messages.HAS_BEGUN()
    if to == state.phase:
        return messages.ALREADY_THERE(phase=to)
    if state.phase == "promoted" and to == "rolled back":
        return None
    if state.phase in OVER:
        return messages.OVER(phase=state.phase)
    if state.phase == "draft" and to in ("promoted", "rolled back"):
        return messages.NOT_BEGUN()
    if by == "person":
        return None
    if state.killed:
        return messages.KILL_SWITCH_ON()
    if state.phase in STAGES and to in STAGES and STAGES.index(to) < STAGES.index(state.phase):
        return messages.ONLY_PEOPLE_GO_BACK()
    return None


def in_force(experiment: Experiment, state: State) -> Experiment:
    """Return the experiment as the routers must apply it at its current stage.

    After a promotion, the incumbent has the policy and the endpoint of the promoted challenger.
    """
    stage = next((stage for stage in STAGES if stage == state.phase), STAGES[0])
    on = experiment.enabled and not state.killed and state.phase in STAGES
    arms = experiment.arms
    if state.incumbent is not None:
        served = {"explore": None, **state.incumbent}
        arms = tuple(arm.replace(**served) if arm.name == INCUMBENT else arm for arm in arms)
    overrides = {} if state.phase in OVER else experiment.overrides
    return experiment.replace(stage=stage, enabled=on, arms=arms, overrides=overrides)


def answering(arm: Arm) -> dict[str, Any]:
    """Return the fields that determine the answers of an arm: its policy, its model and its endpoint.

    The arm's name is left out, so that two arms with the same answers have equal fields.
    """
    fields = {"policy", "model_digest", "model_name", "model_version"}
    return {**arm.model_dump(mode="json", include=fields), "endpoint": arm.url}


FIXED: Sequence[str] = (
    "unit",
    "layer",
    "layer_part",
    "campaigns",
    "alpha",
    "metrics",
    "min_runtime_hours",
    "covariates",
    "minimum_effect",
)
"""Fields of the experiment file that must not change after the start, because they define what is measured, on which
users, and with which error rate."""


def fixed_fields(experiment: Experiment) -> dict[str, Any]:
    """Return the fields that must not change after the start, as values for JSON."""
    fields = experiment.model_dump(mode="json", include=set(FIXED))
    return {**fields, "arms": sorted(arm.name for arm in experiment.arms)}


def fixed_changes(fixed: Mapping[str, Any], experiment: Experiment) -> list[str]:
    """Return the names of the fields that have changed, although they must not change after the start.

    Args:
        fixed: Result of `fixed_fields` when the experiment started.
    """
    fields = {name: value for name, value in fixed.items() if name != "arms"}
    before = experiment.from_dict({**experiment.model_dump(mode="json"), **fields})  # newer fields get defaults
    changed = [name for name in FIXED if getattr(before, name) != getattr(experiment, name)]
    return changed + ["arms: their names"] * (fixed["arms"] != fixed_fields(experiment)["arms"])
