"""Moves an experiment between its stages, as a person requests or the ramp decides.

A move is added to the history before the active experiment is written. If the process crashes in between, the next call
writes the active experiment.
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
"""If the clock jumps forward, its new time is trusted after this number of seconds. A faulty clock would be corrected
by then."""
ReadEvidence = Callable[[Experiment, float], Evidence | None]
"""Type of a function that returns the evidence about an active experiment, given the start of its current stage in
seconds since 1970."""


class ExperimentStore(Protocol):
    """Storage of one experiment: a folder on a laptop, or a Kubernetes object on a cluster."""

    @property
    def name(self) -> str:
        """Name of the file or object with the definition."""

    def definition(self) -> Experiment:
        """Read the definition that people wrote. Raises ExperimentError if it is invalid."""

    def switched_off(self) -> bool:
        """Return whether the definition has `enabled: false`, even if it is otherwise invalid."""

    def events(self) -> list[history.Event]:
        """Read the history, the oldest event first. Raises HistoryError if it can't be read."""

    def append(self, event: history.Event) -> None:
        """Append an event to the history durably. The caller holds the lock."""

    def last_in_force(self) -> Experiment | None:
        """Read the active experiment; None if there is no valid one."""

    def apply_experiment(self, experiment: Experiment) -> None:
        """Make this the active experiment, if it is not yet active. The caller holds the lock."""

    def locked(self) -> AbstractContextManager[None]:
        """Lock the storage against other writers during the block."""


def state(store: ExperimentStore) -> tuple[Experiment, State]:
    """Read the definition and compute the state of the experiment from its history.

    Raises:
        ExperimentError: The definition is invalid, or changes a field that may not change after the start.
        HistoryError: The history can't be read.
    """
    experiment = store.definition()
    return experiment, follows(store.name, experiment, store.events())


def follows(name: str, experiment: Experiment, events: Sequence[history.Event]) -> State:
    """Compute the state of an experiment from its history.

    Raises:
        ExperimentError: The definition changes a field that may not change, or would revert a promotion.
    """
    found = history.state_of(events, experiment)
    if found.fixed is not None and (changed := fixed_changes(found.fixed, experiment)):
        raise ExperimentError(prefixed(name, messages.FIXED_FIELDS(fields=", ".join(changed))))
    if (promotion := history.serves_since_before(events, experiment)) is not None:
        raise ExperimentError(prefixed(name, would_revert(promotion, experiment)))
    return found


def would_revert(promotion: history.Promoted, experiment: Experiment) -> Message:
    """Build the error message for a definition that would silently revert a promotion."""
    given = experiment.arm(INCUMBENT)
    kept = given.model_dump(mode="json", include={"name", "weight", "explore"})
    arm = {name: value for name, value in {**kept, **promotion.incumbent}.items() if value is not None}
    line = yaml.safe_dump(arm, default_flow_style=True, sort_keys=False, width=10_000).strip()
    made, hint = promotion.event, "" if promotion.handed_over else messages.NOT_SETTLED()
    who = {"challenger": made.challenger, "experiment": made.experiment, "salt": made.salt}
    return messages.TAKEN_BACK(**who, line=line, hint=hint)


def apply_experiment(store: ExperimentStore) -> Experiment:
    """Compute the active experiment from the definition and the history, write it, and return it.

    Raises the same errors as `state`. If an invalid definition has `enabled: false`, switches the experiment off first.
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
    """Add an event to the history, write the resulting active experiment, and return it.

    Args:
        at: Time of the event, in seconds since 1970.

    Raises:
        IllegalEvent: The event is not allowed in the current state.
        ExperimentError: The definition is invalid. A kill, rollback or hand-over is applied nevertheless.
        HistoryError: The history can't be read. A kill is still applied, but the history does not record it.
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
            serving = in_force(experiment, found)
            store.apply_experiment(serving)
            return serving
        event = {"by": by, "reason": reason, "at": at, "to": to, "challenger": challenger, "served": served}
        return _do(store, experiment, kind, **event, evidence=None if evidence is None else plain(evidence))


def next_step(
    store: ExperimentStore, read_evidence: ReadEvidence, now: float, reached: float | None = None
) -> Move | Hold:
    """Make the next move of the ramp, or return the reasons to wait.

    The store is not locked while the log is read, so that a kill switch need not wait.

    Args:
        now: Present time, in seconds since 1970.
        reached: End of the stage's duration so far, by default `now`. It is earlier if the clock may have jumped.
    """
    serving = apply_experiment(store)
    experiment, before = state(store)
    asked = before.phase not in (*OVER, "draft") and before.since is not None
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
    # An earlier process may have crashed before it wrote the active experiment.
    except history.IllegalEvent:
        store.apply_experiment(in_force(experiment, history.state_of(events, experiment)))
        raise
    store.append(made)
    serving = in_force(experiment, history.state_of([*events, made], experiment))
    store.apply_experiment(serving)
    return serving


def plain(evidence: Evidence) -> dict[str, Any]:
    """Convert evidence to the JSON form of the history, in which unknown values are null."""
    found = asdict(evidence)
    found["arms"] = {
        name: {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in arm._asdict().items()
        }
        for name, arm in evidence.arms.items()
    }
    return found
