"""Builds the document of an experiment."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from monitoring.experiments.advice import Standing
from monitoring.experiments.document import DOCUMENT_VERSION, Need, Newest, Next, Step, View
from monitoring.experiments.findings import Findings
from monitoring.experiments.money import short_of_money
from mtorl.experiment.arm import Arm
from mtorl.experiment.experiment import MOST_BUDGETS, Experiment
from mtorl.experiment.history import Event, state_of
from mtorl.experiment.metrics import unit_of
from mtorl.experiment.stage_machine import (
    FAULTS,
    OVER,
    STAGES,
    Hold,
    Move,
    Requirement,
    State,
    consider,
    in_force,
    requirements,
    stages_to_come,
)
from mtorl.experiment.stages import CHALLENGER_SHARE, RampStage

_PLANNED = {
    *("owner", "start", "planned_end", "alpha", "min_runtime_hours", "unit", "layer", "layer_part"),
    *("minimum_effect", "covariates", "metrics", "ramp"),
}
"""Fields of the experiment file that the document contains. The salt must not be one of them, because each user's arm
can be computed from it."""
# Estimate the rate of new users only after this many hours at a stage.
_TOO_SOON = 0.01


def experiment_view(experiment: Experiment, events: Sequence[Event], findings: Findings, now: float) -> View:
    """Build the document of an experiment.

    Events with another salt are ignored, because they belong to an earlier experiment of the same name.
    """
    state = state_of(events, experiment)
    own = [event for event in events if (event.experiment, event.salt) == (experiment.name, experiment.salt)]
    step = consider(experiment, state, findings.evidence, now)
    needed = requirements(experiment, state, findings.evidence, now) if state.phase not in OVER else ()
    moves = [event for event in own if event.kind == "move"]
    kills = [event.reason for event in own if event.kind == "kill"]
    by_hand = findings.by_hand and experiment.ramp is None and state.phase == "draft"
    phase = experiment.stage if by_hand else state.phase
    newest, ahead = findings.newest, stages_to_come(experiment.ramp, state)
    # Decisions are rare before the start and after the end, so do not warn about gaps.
    if newest is not None and phase not in STAGES:
        newest = Newest(**{**newest, "silence": None})
    standing = Standing(
        experiment,
        state,
        step,
        replace(findings, newest=newest, by_hand=by_hand),
        needed,
        moves[-1] if moves else None,
        ahead,
        kills[-1] if kills else None,
        short_of_money(findings.spend, moves[0].at if moves else None, experiment.ramp, state, now),
    )
    serving = experiment if by_hand else in_force(experiment, state)
    return View(
        document_version=DOCUMENT_VERSION,
        looked=_iso(now if findings.looked is None else findings.looked),
        name=experiment.name,
        hypothesis=experiment.hypothesis,
        version=serving.version,
        problem=findings.problem,
        advice=standing.advice(),
        phase=phase,
        since=_at(state.since),
        enabled=_is_on(experiment, state, findings.problem),
        in_force=findings.in_force,
        settled=findings.settled,
        steps=_steps(experiment, phase, moves),
        next=_next(experiment, state, step, needed, findings, now),
        plan=_plan(experiment, serving),
        verdict=findings.verdict,
        unit=unit_of(experiment.metrics.primary, findings.gain),
        units={name: unit_of(name, findings.gain) for name in experiment.metrics.names},
        currency=findings.gain.units.money,
        spend=[spend for spend in findings.spend if spend["limit"] > 0 or spend["spent"] > 0],
        traffic=findings.traffic,
        newest=newest,
        events=[_happened(event) for event in own],
    )


def _is_on(experiment: Experiment, state: State, problem: str | None) -> bool:
    """Return whether the experiment is on. The kill switch does not apply to a finished experiment."""
    if state.phase in OVER or (state.phase == "draft" and problem is not None):
        return True
    return experiment.enabled and not state.killed


def _steps(experiment: Experiment, phase: str, moves: Sequence[Event]) -> list[Step]:
    entered = {str(event.to): event.at for event in moves}
    of_ramp: dict[str, RampStage] = {step.stage: step for step in experiment.ramp.stages} if experiment.ramp else {}
    shares = {str(stage): share for stage, share in CHALLENGER_SHARE.items()}
    # After the end, list the stages up to the last entered one, including skipped stages.
    over = phase in OVER
    last = max((place for place, stage in enumerate(STAGES) if stage in entered), default=-1)
    ramp = of_ramp if not over else [stage for stage in STAGES[:last] if stage in of_ramp]
    stages = [stage for stage in STAGES if stage in entered or stage in ramp or stage == phase]
    begin = [] if experiment.ramp is None and phase != "draft" else ["draft"]
    end = [] if experiment.ramp is None else ["promoted"]
    undone = ["promoted"] if phase == "rolled back" and "promoted" in entered else []
    names = [*begin, *stages, *undone, *([phase] if over else end)]
    here = names.index(phase)
    steps = []
    for place, name in enumerate(names):
        step = of_ramp.get(name)
        past: Literal["past", "skipped"] = "skipped" if name in STAGES and name not in entered else "past"
        steps.append(
            Step(
                phase=name,
                place="here" if place == here else past if place < here else "ahead",
                since=_at(entered.get(name)),
                challengers=shares.get(name),
                hours=None if step is None else step.hours,
                users=None if step is None else step.users,
            )
        )
    return steps


def _next(
    experiment: Experiment,
    state: State,
    step: Move | Hold,
    needed: Sequence[Requirement],
    findings: Findings,
    now: float,
) -> Next:
    off = state.killed or not experiment.enabled or state.phase in OVER or findings.problem is not None
    needs = [] if off else [_need(*one, one.met) for one in needed]
    void = findings.evidence is not None and findings.evidence.token == "srm"
    following = next((step.stage for step in stages_to_come(experiment.ramp, state)), None)
    last = not off and state.phase in STAGES and following is None
    if last and findings.verdict is not None:
        counted: float = findings.verdict["hours"]
        least = experiment.min_runtime_hours
        factor, unit = (60, "minutes") if 0 < least < 1 else (1, "hours")
        words = f"{factor * counted:.1f} of {factor * least:g} {unit} that count in the verdict"
        met = counted > least - 1.0  # as in `mtorl.experiment.inference.verdict`
        if least > 0:
            needs.append(_need("counted_hours", None, counted, least, words, met))
    to = step.to if isinstance(step, Move) else following
    waits: Sequence[str] = () if isinstance(step, Move) else step.reasons
    waits = waits if findings.problem is None else [findings.problem]
    not_before = expected = None
    if not (off or void) and to is not None and state.since is not None:
        hours = next((one.needed for one in needed if one.kind == "hours"), 0.0)
        not_before = state.since + 3600 * hours
        expected = _expected(needed, state.since, now)
        expected = None if expected is None or expected <= max(not_before, now) else expected
        not_before = not_before if not_before > now else None
    elif state.phase == "draft" and experiment.start is not None:
        not_before = experiment.start.timestamp()
    return Next(
        to=None if off or void else to,
        waits=list(waits),
        codes=[getattr(reason, "code", "") for reason in waits],
        needs=needs,
        not_before=_at(not_before),
        expected=_at(expected),
    )


def _expected(needed: Sequence[Requirement], since: float, now: float) -> float | None:
    """Forecast when the stage will have enough hours and users, if users arrive as fast as so far.

    Returns None if another condition is not met, because its time can't be forecast.
    """
    passed = (now - since) / 3600
    latest = now
    for one in needed:
        if one.met:
            continue
        if one.kind == "hours":
            latest = max(latest, since + 3600 * one.needed)
        elif one.kind == "users" and one.found > 0 and passed > _TOO_SOON:
            latest = max(latest, since + 3600 * passed * one.needed / one.found)
        else:
            return None
    return latest


def _need(kind: str, arm: str | None, found: float, needed: float, words: str, met: bool) -> Need:
    share = 1.0 if needed <= 0 else min(max(found / needed, 0.0), 1.0)
    limit = kind in FAULTS
    return Need(kind=kind, arm=arm, found=found, needed=needed, met=met, limit=limit, share=share, words=words)


def _plan(experiment: Experiment, serving: Experiment) -> dict[str, Any]:
    shares, budgets = serving.shares(), experiment.all_budgets
    return {
        **experiment.model_dump(mode="json", include=_PLANNED),
        "arms": [
            {"name": arm.name, "weight": arm.weight, "share": shares[arm.name], "answers": _answers(arm)}
            for arm in serving.arms
        ],
        "budgets": [budget.model_dump(mode="json") for budget in budgets[:MOST_BUDGETS]],
        "more_budgets": max(0, len(budgets) - MOST_BUDGETS),
    }


def _answers(arm: Arm) -> str:
    parts = []
    if arm.policy is not None:
        parts.append("the caller's choice" if arm.policy == "baseline" else f"{len(arm.policy)} rows of the file")
    if arm.url is not None:
        url = urlsplit(arm.url)
        parts.append(f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}")
    if arm.model_digest is not None:
        parts.append(f"model {arm.model_digest}")
    if arm.explore is not None:
        parts.append(f"{arm.explore.share:.0%} chosen at random")
    return ", ".join(parts)


def _happened(event: Event) -> dict[str, Any]:
    shown = event.model_dump(mode="json", include={"number", "by", "reason", "challenger", "version", "evidence"})
    return {**shown, "at": _iso(event.at), "what": event.to or event.kind}


def _at(time: float | None) -> str | None:
    return None if time is None or not math.isfinite(time) else _iso(time)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
