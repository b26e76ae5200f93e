"""Applies the kill switch and the moves that people write into an object.

    kubectl patch exp NAME --type merge -p '{"spec": {"enabled": false}}'                            # the kill switch
    ... -p '{"metadata": {"annotations": {"mtorl-kubeflow/reason": "..."}}, "spec": {"enabled": false}}'       # and why
    kubectl patch exp NAME --type merge -p '{"spec": {"move": {"to": "stopped", "reason": "..."}}}'

A kill switch in the ConfigMap counts, too. It stays on until the object has a reply: `enabled: false`, or another
reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal, NamedTuple

import orjson
from pydantic import ValidationError

from monitoring.experiments.look import Known
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.history import HistoryError, IllegalEvent, state_of
from mtorl.experiment.stage_machine import OVER, Phase
from mtorl.runtime.validation import first_fault
from pipelines.experiments.controller import act, state
from pipelines.experiments.moves import MoveRequest, NotLookedYet, challenger_of, make_move
from pipelines.experiments.resource import ExperimentResource


class Declined(NamedTuple):
    """A move that was not made, and why."""

    words: str
    waits: bool = False
    """Whether it is looked at again; else it has to be asked for again."""


def follow(resource: ExperimentResource, now: float, known: Mapping[tuple[str, str], Known]) -> Declined | None:
    """Apply the kill switch, in the spec or in the ConfigMap, then a move that was not handled yet.

    Raises as `state`, while the kill switch still works; and Conflict: the object has changed meanwhile.

    Args:
        known: Last look at the log of each experiment, by name and salt.

    Returns:
        Why the newest move was not made; None: it was.
    """
    by_hand = resource.switched_off_by_hand()
    resource.keep_switch(by_hand)
    off = by_hand or resource.spec.get("enabled") is False
    serving = resource.last_in_force()
    if off:  # before the history: that may be full, or be more than can be written now
        resource.switch_off()
    try:
        _, found = state(resource)
    except (ExperimentError, HistoryError):
        if serving is not None:
            _harm_ends(resource, serving, off, now, known)
        raise
    if off != found.killed and found.phase not in OVER:
        kind: Literal["kill", "resume"] = "kill" if off else "resume"
        act(resource, kind, by="person", reason=resource.switch_reason(), at=now)
    declined = _move(resource, now, known)
    if off and declined is None and state(resource)[1].phase == "promoted":
        return Declined(
            "a challenger is promoted, and goes on: a move to rolled back gives all users the previous incumbent"
        )
    return declined


def _harm_ends(
    resource: ExperimentResource, serving: Experiment, off: bool, now: float, known: Mapping[tuple[str, str], Known]
) -> None:
    """Kill switch and rollback of what is in force, with a spec that can't be used."""
    found = state_of(resource.events(), serving)
    if off and not found.killed and found.phase not in OVER:
        act(resource, "kill", by="person", reason=resource.switch_reason(), at=now)
    if (resource.spec.get("move") or {}).get("to") == "rolled back":
        _move(resource, now, known)


def _move(resource: ExperimentResource, now: float, known: Mapping[tuple[str, str], Known]) -> Declined | None:
    asked = resource.spec.get("move")
    if not asked:
        return None
    resource.moved = hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
    if resource.status.get("move") == resource.moved:
        return None
    try:
        move = MoveRequest.model_validate(asked)
        challenger = challenger_of(resource, move)
        if _was_made(resource, move.to, challenger, move.reason):
            raise IllegalEvent(f"{move.to} was asked for in the same words before, and made: give another reason")
        make_move(resource, move, now, lambda: known.get((resource.name, str(resource.spec.get("salt")))))
    except NotLookedYet:
        return Declined("its promotion waits until the log was looked at, which takes a minute", waits=True)
    except ValidationError as error:
        refused = f"move: {first_fault(error)}"
    except IllegalEvent as error:
        refused = str(error)
    else:
        return None
    resource.write({"move": resource.moved})
    return Declined(refused)


def _was_made(resource: ExperimentResource, to: Phase, challenger: str | None, reason: str) -> bool:
    """Whether it is an older move: a file that has it may be applied again, after other moves."""
    return any(
        (event.by, event.to, event.challenger, event.reason) == ("person", to, challenger, reason.strip())
        for event in resource.events()
        if event.salt == resource.spec.get("salt")
    )
