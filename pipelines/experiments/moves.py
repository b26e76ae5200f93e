"""Makes the moves that a person requests with a command or in an Experiment object, and applies kill switches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal

import orjson
from pydantic import ValidationError, model_validator

from monitoring.experiments.findings import Findings, unsupported
from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.history import HistoryError, IllegalEvent, next_event, state_of
from mtorl.experiment.messages import PROMOTED
from mtorl.experiment.stage_machine import OVER, STAGES, Phase
from mtorl.runtime.message import Message
from mtorl.runtime.validation import StrictModel, Text, first_fault
from pipelines import messages
from pipelines.experiments.controller import ExperimentStore, act, state
from pipelines.experiments.resource import ExperimentResource


class MoveRequest(StrictModel):
    """A move of an experiment that a person requests. A request is handled once; to repeat it, change the reason."""

    to: Literal["shadow", "1%", "5%", "25%", "50%", "promoted", "stopped", "rolled back"]
    """Where the experiment should move: to a stage, or to one of its ends. A move to a stage also starts a draft."""
    challenger: Text | None = None
    """The challenger to promote; optional if the experiment has only one challenger."""
    reason: Text
    """The reason of the move, which is recorded in the experiment's history."""
    force: bool = False
    """true: promote even if the log has no decision of the challenger, or can't be read."""

    @model_validator(mode="after")
    def _force_is_of_this_move(self) -> MoveRequest:
        if self.force and self.to in STAGES:
            # A merge patch that requests a promotion later would keep this `force`.
            raise ValueError(messages.FORCE())
        return self


class LogNotRead(Exception):
    """Raised if a promotion must wait until the log has been read."""


def make_move(
    store: ExperimentStore, move: MoveRequest, now: float, read_log: Callable[[], Findings | None]
) -> tuple[Experiment, Findings | None]:
    """Make a move that a person has requested.

    Returns the new active experiment and, for a promotion, the findings.

    Args:
        read_log: Function that returns the findings. None means that the log has not been read yet.

    Raises:
        LogNotRead: The log has not been read yet.
        IllegalEvent: The move is not allowed now, or the log does not support the promotion and `force` is not set.
    """
    challenger, findings = challenger_of(store, move), None
    if move.to == "promoted":
        # Check the promotion before the log is read, because reading takes long.
        experiment, _ = state(store)
        asked = {"to": "promoted", "challenger": challenger, "by": "person", "reason": move.reason, "at": now}
        next_event(store.events(), experiment, "move", **asked)  # type: ignore[arg-type]
        findings = read_log()
        if findings is None and not move.force:
            raise LogNotRead
        missing = None if findings is None else unsupported(findings, str(challenger))
        if missing is not None and not move.force:
            raise IllegalEvent(messages.UNSUPPORTED(why=missing))
    evidence = None if findings is None else findings.evidence
    serving = act(
        store, "move", by="person", reason=move.reason, at=now, to=move.to, challenger=challenger, evidence=evidence
    )
    return serving, findings


def challenger_of(store: ExperimentStore, move: MoveRequest) -> str | None:
    """Return the challenger to promote. None if the move is no promotion, or names none of several challengers."""
    if move.to != "promoted" or move.challenger is not None:
        return move.challenger if move.to == "promoted" else None
    names = [arm.name for arm in store.definition().arms if arm.name != INCUMBENT]
    return names[0] if len(names) == 1 else None


def follow(resource: ExperimentResource, now: float, findings: Findings | None) -> Message | None:
    """Apply the kill switch of an object, then the move in its spec if this move is new.

    Args:
        findings: Newest findings from the log. None means that the log has not been read yet.

    Returns:
        The message HELD or REFUSED if the move was not made, otherwise None.

    Raises:
        ExperimentError, HistoryError: The same as in `state`. The kill switch is applied before they are raised.
        Conflict: The object was changed meanwhile.
    """
    by_hand = resource.switched_off_by_hand()
    resource.keep_switch(by_hand)
    off = by_hand or resource.spec.get("enabled") is False
    serving = resource.last_in_force()
    # Switch off first, because recording the event fails if the history is full.
    if off:
        resource.switch_off()
    try:
        _, found = state(resource)
    except (ExperimentError, HistoryError):
        if serving is not None:
            _harm_ends(resource, serving, off, now)
        raise
    if off != found.killed and found.phase not in OVER:
        kind: Literal["kill", "resume"] = "kill" if off else "resume"
        act(resource, kind, by="person", reason=resource.switch_reason(), at=now)
    declined = _move(resource, now, findings)
    if off and declined is None and state(resource)[1].phase == "promoted":
        return messages.REFUSED(fault=PROMOTED())
    return declined


def _harm_ends(resource: ExperimentResource, serving: Experiment, off: bool, now: float) -> None:
    """Apply a kill switch or a rollback, because an invalid new spec must not prevent them."""
    found = state_of(resource.events(), serving)
    if off and not found.killed and found.phase not in OVER:
        act(resource, "kill", by="person", reason=resource.switch_reason(), at=now)
    if (resource.spec.get("move") or {}).get("to") == "rolled back":
        _move(resource, now, None)


def _move(resource: ExperimentResource, now: float, findings: Findings | None) -> Message | None:
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
            raise IllegalEvent(messages.SAME_MOVE(to=move.to))
        make_move(resource, move, now, lambda: findings)
    except LogNotRead:
        return messages.HELD()
    except ValidationError as error:
        refused = f"move: {first_fault(error)}"
    except IllegalEvent as error:
        refused = str(error)
    else:
        return None
    resource.write({"move": resource.moved})
    return messages.REFUSED(fault=refused)


def _was_made(resource: ExperimentResource, to: Phase, challenger: str | None, reason: str) -> bool:
    """Return whether the same move was already made, so that an old manifest is not followed twice."""
    return any(
        (event.by, event.to, event.challenger, event.reason) == ("person", to, challenger, reason.strip())
        for event in resource.events()
        if event.salt == resource.spec.get("salt")
    )
