"""Applies the steps of people and of the ramp to an experiment; each is safe to be killed in.

    act(store, "kill", by="person", reason="clicks are gone", at=time.time())
    step = next_step(store, read_evidence, time.time())         # polled by `mtorl experiment run` and the operator

The order is always: read definition and history, write the event, apply what follows. After a crash in between, the
next call applies what the history already says.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any, Protocol

import yaml

from mtorl.experiment import history
from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.stage_machine import OVER, Evidence, Hold, Move, Phase, State, consider, fixed_changes, in_force
from mtorl.runtime.message import Message, prefixed
from pipelines import messages

BELIEVED_AFTER = 3600.0
"""Seconds after which a clock that was put forward is believed: by then a fault of it is mended."""
ReadEvidence = Callable[[Experiment, float], Evidence | None]
"""Returns the evidence on an experiment in force, at its stage since a time in seconds since 1970."""


class ExperimentStore(Protocol):
    """Keeps an experiment: a folder on a laptop, an object on a cluster."""

    @property
    def name(self) -> str:
        """The place of the definition, for messages: a file or an object."""

    def definition(self) -> Experiment:
        """The definition that people wrote. ExperimentError: it can't be used."""

    def switched_off(self) -> bool:
        """Whether people wrote `enabled: false`, also in a definition that can't be used."""

    def events(self) -> list[history.Event]:
        """The history, the oldest event first. HistoryError: it can't be read."""

    def append(self, event: history.Event) -> None:
        """Add an event durably; the store is locked."""

    def last_in_force(self) -> Experiment | None:
        """The experiment that routers got last; None: none, or it can't be read any more."""

    def apply_experiment(self, experiment: Experiment) -> None:
        """Send an experiment to the routers, unless they have it; the store is locked."""

    def locked(self) -> AbstractContextManager[None]:
        """Exclusive access until the end of the block."""


def state(store: ExperimentStore) -> tuple[Experiment, State]:
    """The definition, and where the experiment stands.

    ExperimentError: the definition can't be used, or changes what may not change any more. HistoryError: the history
    can't be read.
    """
    experiment = store.definition()
    return experiment, follows(store.name, experiment, store.events())


def follows(name: str, experiment: Experiment, events: Sequence[history.Event]) -> State:
    """State of an experiment by its history; `name` is the place of its definition. Raises as `state`."""
    found = history.state_of(events, experiment)
    if found.fixed is not None and (changed := fixed_changes(found.fixed, experiment)):
        raise ExperimentError(prefixed(name, messages.FIXED_FIELDS(fields=", ".join(changed))))
    if (promotion := history.serves_since_before(events, experiment)) is not None:
        raise ExperimentError(prefixed(name, would_revert(promotion, experiment)))
    return found


def would_revert(promotion: history.Promoted, experiment: Experiment) -> Message:
    """Refusal of an experiment that would silently revert a promotion, with the line to write instead."""
    given = experiment.arm(INCUMBENT)
    kept = given.model_dump(mode="json", include={"name", "weight", "explore"})
    arm = {name: value for name, value in {**kept, **promotion.incumbent}.items() if value is not None}
    line = yaml.safe_dump(arm, default_flow_style=True, sort_keys=False, width=10_000).strip()
    made, hint = promotion.event, "" if promotion.handed_over else messages.NOT_SETTLED()
    who = {"challenger": made.challenger, "experiment": made.experiment, "salt": made.salt}
    return messages.TAKEN_BACK(**who, line=line, hint=hint)


def apply_experiment(store: ExperimentStore) -> Experiment:
    """Compute the experiment from its definition and history, send it to the router, and return it.

    Raises the errors of `state`; the kill switch of the definition takes effect even then.
    """
    with store.locked():
        try:
            experiment = in_force(*state(store))
        except (ExperimentError, history.HistoryError):
            in_use = store.last_in_force()
            if in_use is not None and in_use.enabled and store.switched_off():
                store.apply_experiment(in_use.replace(enabled=False))
            raise
        store.apply_experiment(experiment)
        return experiment


def act(
    store: ExperimentStore,
    kind: history.Kind,
    *,
    by: history.By,
    reason: str,
    at: float,
    to: Phase | None = None,
    challenger: str | None = None,
    served: Mapping[str, str] | None = None,
    evidence: Evidence | None = None,
) -> Experiment:
    """Add an event at a time in seconds since 1970, and return what is in force from then on.

    Raises:
        IllegalEvent: It can't happen now.
        ExperimentError: The definition can't be used. Kill switch, rollback and hand-over work all the same, on what is
            in force.
        HistoryError: The history can't be read. The kill switch works all the same, until it can be.
    """
    with store.locked():
        try:
            experiment, _ = state(store)
        except ExperimentError:
            in_use = store.last_in_force()
            if in_use is None or not (kind in ("kill", "handed over") or to == "rolled back"):
                raise
            experiment = in_use
        except history.HistoryError as error:
            in_use = store.last_in_force()
            if kind != "kill" or in_use is None:
                raise
            store.apply_experiment(in_use.replace(enabled=False))
            raise history.HistoryError(messages.KILL_NOT_WRITTEN(fault=str(error))) from None
        if kind == "kill" and (found := history.state_of(store.events(), experiment)).killed:
            serving = in_force(experiment, found)  # a second kill is no error
            store.apply_experiment(serving)
            return serving
        event = {"by": by, "reason": reason, "at": at, "to": to, "challenger": challenger, "served": served}
        return _do(store, experiment, kind, **event, evidence=None if evidence is None else plain(evidence))


def next_step(
    store: ExperimentStore, read_evidence: ReadEvidence, now: float, reached: float | None = None
) -> Move | Hold:
    """Let the ramp take its next step, if there is one.

    Reading a large log takes minutes. Nothing is locked meanwhile, so the kill switch does not wait; a move is made
    only if nothing has happened since. `reached` is a time that has surely come, if the clock was put forward lately:
    a stage, and the experiment, last until then.
    """
    serving = apply_experiment(store)
    experiment, before = state(store)
    asked = serving.enabled and before.phase not in (*OVER, "draft") and before.since is not None
    evidence = read_evidence(serving, before.since or 0.0) if asked else None
    with store.locked():
        experiment, after = state(store)
        if after != before:
            return Hold((messages.CHANGED_MEANWHILE(),))
        step = consider(experiment, after, evidence, now if reached is None else reached)
        if isinstance(step, Move):
            known = None if evidence is None else plain(evidence)
            event = {"by": "ramp", "reason": step.reason, "at": now, "to": step.to, "challenger": step.challenger}
            _do(store, experiment, "move", **event, evidence=known)
        return step


def _do(store: ExperimentStore, experiment: Experiment, kind: history.Kind, **event: Any) -> Experiment:
    events = store.events()
    try:
        made = history.next_event(events, experiment, kind, **event)
    except history.IllegalEvent:  # perhaps it has happened, and its writer died before it was in force
        store.apply_experiment(in_force(experiment, history.state_of(events, experiment)))
        raise
    store.append(made)
    serving = in_force(experiment, history.state_of([*events, made], experiment))
    store.apply_experiment(serving)
    return serving


def plain(evidence: Evidence) -> dict[str, Any]:
    """Evidence as a history keeps it: unknown values are null."""
    found = asdict(evidence)
    found["arms"] = {
        name: {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in arm._asdict().items()
        }
        for name, arm in evidence.arms.items()
    }
    return found
