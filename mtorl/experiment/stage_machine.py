"""Decides the next stage of an experiment: a pure function of its file, its history and the evidence.

    state = state_of(events, experiment)          # `mtorl.experiment.history`
    consider(experiment, state, evidence, now)    # Move("5%", "48 hours, 812 users in each arm ...") or Hold(...)
    in_force(experiment, state)                   # the file that routers decide by

    draft -> shadow -> 1% -> 5% -> 25% -> 50% -> promoted
                 any stage -> stopped (worse, or no verdict in time) | rolled back (harm)

The caller, a command on a laptop or an operator on a cluster, writes a move into the history first and applies it then;
both can be repeated after a crash.

A futile experiment is stopped at the last stage only: before, few users are at stake. A guardrail that is breached
rolls back at once. Its bound is always valid, so looking often does not raise the rate of false alarms above the
experiment's alpha.
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
STAGES: tuple[Stage, ...] = get_args(Stage)  # phases with traffic, in the order of the ramp
OVER: tuple[Phase, ...] = ("promoted", "stopped", "rolled back")
FAULTS = ("fallback_ratio", "latency_seconds")
"""Requirements that what happened at the beginning of a stage can leave unmet for as long as the stage lasts."""


@dataclass(frozen=True)
class State:
    """State of an experiment."""

    phase: Phase = "draft"
    since: float | None = None  # when its time there began to count, seconds since 1970; None for a draft
    killed: bool = False  # by a command; the file may pull the kill switch as well
    events: int = 0
    # Fields of the incumbent's arm (`answering`); None: as in the file. Promotions and rollbacks change them.
    incumbent: Mapping[str, Any] | None = None
    replaced: Mapping[str, Any] | None = None  # of a promotion: the incumbent's fields before
    fixed: Mapping[str, Any] | None = None  # `fixed_fields` when it began; None for a draft


class ArmEvidence(NamedTuple):
    """Figures of an arm at the present stage."""

    users: int  # users with counted decisions; in the shadow, users of its questions
    fallback_ratio: float = 0.0  # share of its decisions that were default actions; in the shadow, of its faults
    latency_seconds: float = math.nan  # 99th percentile; NaN: not known, as in the shadow


@dataclass(frozen=True)
class Evidence:
    """Evidence of the decision log about an experiment."""

    token: Token  # of the verdict so far, as is the reason
    reason: Message
    challenger: str
    breached: tuple[Message, ...]  # guardrails, with the challenger and in words
    arms: Mapping[str, ArmEvidence]  # without those that had no decision
    effect: Mapping[str, Any] | None = None  # of that challenger, for people: the verdict's users, lift and lift_ci


class Move(NamedTuple):
    """The next phase, and why."""

    to: Phase
    reason: Message
    challenger: str | None = None  # the promoted arm


class Hold(NamedTuple):
    """The experiment stays in its stage; the reasons are what it waits for."""

    reasons: tuple[Message, ...]


class Requirement(NamedTuple):
    """One requirement for leaving a stage."""

    kind: Literal["hours", "users", "fallback_ratio", "latency_seconds"]
    arm: str | None  # whose; None: the stage's
    found: float
    needed: float
    words: Message  # what is missing, if the need is not met

    @property
    def met(self) -> bool:
        """Hours and users are at least as many as needed; the others at most as much as is allowed."""
        return self.found <= self.needed if self.kind in FAULTS else self.found >= self.needed


def consider(experiment: Experiment, state: State, evidence: Evidence | None, now: float) -> Move | Hold:
    """The next move without a person; `evidence` is None while nothing is known, `now` is in seconds since 1970."""
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
    """Stages of the ramp after the present phase: all of a draft's, none of what is over."""
    if ramp is None or state.phase in OVER:
        return []
    here = -1 if state.phase == "draft" else STAGES.index(state.phase)
    return [step for step in ramp.stages if STAGES.index(step.stage) > here]


def requirements(
    experiment: Experiment, state: State, evidence: Evidence | None, now: float
) -> tuple[Requirement, ...]:
    """Requirements for leaving the present stage, with progress; none where the ramp does not know the stage."""
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
    """Unmet requirements in words; for faults, also how old ones cease to count."""
    unmet = [one for one in needed if not one.met]
    words = [one.words for one in unmet]
    return [*words, messages.OLD_FAULTS()] if any(one.kind in FAULTS for one in unmet) else words


def _grown(step: RampStage, evidence: Evidence | None) -> Message:
    arms = {} if evidence is None else evidence.arms
    users = ", ".join(f"{arm.users:,} users of {name}" for name, arm in arms.items())
    lasted = f"{60 * step.hours:g} minutes" if 0 < step.hours < 1 else f"{step.hours:g} hours"
    return messages.STAGE_DONE(lasted=lasted, stage=step.stage, users=users)


def may_move(state: State, to: Phase, by: Literal["ramp", "person"]) -> Message | None:
    """Reason that a move is not allowed; None if it is.

    People may move a running experiment to any stage, back as well as forth. What is over stays over, but a promotion
    can be rolled back: another try is another experiment, with a new salt.
    """
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
    """Experiment that routers apply, at its present stage.

    Before it begins and once it is over, all users get the incumbent, overrides included. A promoted challenger *is*
    the incumbent: that arm answers where the challenger did.
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
    """Fields of an arm that say how it answers, JSON-ready, independent of its name and of its file."""
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
"""Fields of a file that may not change once it has begun: they say what is measured, on whom, and how surely."""


def fixed_fields(experiment: Experiment) -> dict[str, Any]:
    """Fields that may not change once it has begun, JSON-ready."""
    fields = experiment.model_dump(mode="json", include=set(FIXED))
    return {**fields, "arms": sorted(arm.name for arm in experiment.arms)}


def fixed_changes(fixed: Mapping[str, Any], experiment: Experiment) -> list[str]:
    """Fixed fields that have changed since an experiment began."""
    fields = {name: value for name, value in fixed.items() if name != "arms"}
    before = experiment.from_dict({**experiment.model_dump(mode="json"), **fields})  # with defaults for newer fields
    changed = [name for name in FIXED if getattr(before, name) != getattr(experiment, name)]
    return changed + ["arms: their names"] * (fixed["arms"] != fixed_fields(experiment)["arms"])
