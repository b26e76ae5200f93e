"""Stores the events of an experiment, such as moves between stages, and computes its current state from them.

Events are added, but never changed or removed. An event with another name or salt belongs to another experiment.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from mtorl.experiment import messages
from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.stage_machine import OVER, Phase, State, answering, fixed_fields, may_move
from mtorl.runtime.errors import InputError
from mtorl.runtime.message import Message, prefixed
from mtorl.runtime.validation import StrictModel, Text, first_fault

Kind = Literal["move", "kill", "resume", "handed over"]
By = Literal["ramp", "person"]


class IllegalEvent(InputError, ValueError):
    """Raised if an event is not allowed in the current state."""


class HistoryError(InputError, ValueError):
    """Raised if a history can't be read."""


class Event(StrictModel):
    """An event in an experiment's history: a move, a use of the kill switch, or a handover."""

    number: Annotated[int, Field(ge=1)]
    """Position in the history: 1, 2, 3 ... without a gap."""
    at: float
    """Time of the event, seconds since 1970."""
    experiment: Text
    """Name of the experiment."""
    salt: Text
    """Salt of the experiment."""
    version: Text
    """Version of the experiment file when the event happened."""
    kind: Kind
    """move: the experiment moved to another phase. kill, resume: the kill switch was turned on or off. handed over:
    after a promotion, the incumbent's own server now serves the promoted model."""
    to: Phase | None = None
    """The phase to which the experiment moved; null: the event is not a move."""
    challenger: Text | None = None
    """The promoted challenger."""
    by: By
    """Whether the ramp or a person caused the event."""
    reason: Text
    """Reason of the event, as text for people."""
    code: str | None = None
    """Code of the reason, for programs; null: the ramp did not give the reason."""
    evidence: dict[str, Any] | None = None
    """Figures on which the decision was based; null: no figures were collected."""
    fixed: dict[str, Any] | None = None
    """For the move that starts the experiment: the values of the fields that must not change in its file afterwards."""
    incumbent: dict[str, Any] | None = None
    """For a promotion: the endpoint or rule of the promoted challenger, which the incumbent uses from now on
    (`answering`)."""
    replaced: dict[str, Any] | None = None
    """For a promotion: the endpoint or rule that the incumbent used before, to which a rollback returns."""
    served: dict[str, str] | None = None
    """For a handover: the model versions that the server served before and afterwards. If the previous incumbent had no
    endpoint, also the server's endpoint."""

    def line(self) -> str:
        """Return the event as one line of JSON."""
        return json.dumps(self.model_dump(mode="json"), separators=(",", ":")) + "\n"


def read_events(text: str) -> list[Event]:
    """Parse a history that has one event per line.

    If the last line has no newline, it is ignored, because writing it was interrupted.
    """
    return events_of(text[: text.rfind("\n") + 1].splitlines(), "line")


def events_of(given: Iterable[str | Mapping[str, Any]], place: str) -> list[Event]:
    """Parse events from lines of JSON or from plain values.

    Args:
        place: Word for the position of an event in error messages, such as "line".

    Raises:
        HistoryError: an event is invalid, or the number of an event is missing.
    """
    events: list[Event] = []
    for number, one in enumerate(given, start=1):
        try:
            event = Event.model_validate_json(one) if isinstance(one, str) else Event.model_validate(one)
        except ValidationError as error:
            raise HistoryError(messages.NO_EVENT(where=place, number=number, fault=first_fault(error))) from None
        if event.number != number:
            raise HistoryError(messages.EVENTS_MISSING(where=place, number=number, found=event.number))
        events.append(event)
    return events


def state_of(events: Sequence[Event], experiment: Experiment) -> State:
    """Return the current state of an experiment, computed from its history."""
    state = State(events=len(events))
    for event in events:
        if (event.experiment, event.salt) != (experiment.name, experiment.salt):
            # A handover changes a server, not the state of an experiment.
            if event.kind == "handed over":
                continue
            # After another experiment's event, this experiment is a draft again, unless it is finished.
            state = state if state.phase in OVER else State(events=len(events))
        else:
            state = _after(state, event)
    return state


def _after(state: State, event: Event) -> State:
    if event.kind == "kill":
        return replace(state, killed=True)
    if event.kind == "resume":
        # The time with the kill switch on must not count for the stage.
        return replace(state, killed=False, since=None if state.since is None else event.at)
    if event.kind == "handed over":
        return replace(state, incumbent=_at_its_own(state.incumbent, state.replaced, event.served))
    assert event.to is not None
    return replace(
        state,
        phase=event.to,
        since=event.at,
        # After a promotion, only a rollback is allowed, which restores the previous incumbent.
        incumbent=state.replaced if state.phase == "promoted" else event.incumbent,
        replaced=event.replaced,
        fixed=event.fixed or state.fixed,
    )


def _at_its_own(
    incumbent: Mapping[str, Any] | None, replaced: Mapping[str, Any] | None, served: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """Return the promoted challenger's fields, with the endpoint of the incumbent that it replaced."""
    if incumbent is None or replaced is None:
        return None
    return {**incumbent, "endpoint": replaced["endpoint"] or (served or {}).get("endpoint")}


@dataclass(frozen=True)
class Promoted:
    """The newest promotion of a challenger in a history."""

    event: Event
    # Whether the server of the replaced incumbent now runs the promoted model.
    handed_over: bool = False
    # The field `served` of the handover event.
    noted: Mapping[str, Any] | None = None
    rolled_back: bool = False

    @property
    def incumbent(self) -> Mapping[str, Any]:
        """Return how the incumbent answers since the promotion."""
        found = self.event.incumbent
        return (_at_its_own(found, self.event.replaced, self.noted) if self.handed_over else found) or {}


def newest_promotion(events: Sequence[Event]) -> Promoted | None:
    """Return the newest promotion in a history, possibly of an earlier experiment, or None."""
    newest: Promoted | None = None
    for event in events:
        if event.to == "promoted":
            newest = Promoted(event)
        elif newest is not None and (event.experiment, event.salt) == (newest.event.experiment, newest.event.salt):
            if event.kind == "handed over":
                newest = replace(newest, handed_over=True, noted=event.served)
            elif event.to == "rolled back":
                newest = replace(newest, rolled_back=True)
    return newest


def replaced_by(events: Sequence[Event]) -> str | None:
    """Return the endpoint of the incumbent that the newest promotion replaced, or None."""
    newest = newest_promotion(events)
    return None if newest is None or newest.rolled_back else (newest.event.replaced or {}).get("endpoint")


def serves_since_before(events: Sequence[Event], experiment: Experiment) -> Promoted | None:
    """Return the newest promotion if a new experiment file would silently undo it, or None."""
    newest = newest_promotion(events)
    if newest is None or newest.rolled_back:
        return None
    if (newest.event.experiment, newest.event.salt) == (experiment.name, experiment.salt):
        return None
    return None if newest.incumbent == answering(experiment.arm(INCUMBENT)) else newest


def next_event(
    events: Sequence[Event],
    experiment: Experiment,
    kind: Kind,
    *,
    at: float,
    by: By,
    reason: str,
    to: Phase | None = None,
    challenger: str | None = None,
    evidence: Mapping[str, Any] | None = None,
    served: Mapping[str, str] | None = None,
) -> Event:
    """Check that an event is allowed, and return it as the next event of the history.

    Raises:
        IllegalEvent: the event is not allowed in the current state.
    """
    state = state_of(events, experiment)
    promotion = newest_promotion(events) if kind == "handed over" else None
    if to is not None and kind != "move":
        refused: Message | None = messages.NO_TARGET()
    elif kind == "handed over":
        refused = None if _is_due(promotion, served) else messages.NOTHING_TO_HAND_OVER()
    else:
        refused = _refused(state, experiment, kind, by, to, challenger)
    if refused is not None:
        raise IllegalEvent(prefixed(experiment.name, refused))
    return Event(
        number=len(events) + 1,
        at=at,
        experiment=experiment.name if promotion is None else promotion.event.experiment,
        salt=experiment.salt if promotion is None else promotion.event.salt,
        version=experiment.version,
        kind=kind,
        to=to,
        challenger=challenger,
        by=by,
        reason=reason.encode(errors="backslashreplace").decode().strip() or "no reason given",
        code=getattr(reason, "code", None) or None,
        evidence=None if evidence is None else dict(evidence),
        served=None if served is None else dict(served),
        fixed=fixed_fields(experiment) if kind == "move" and state.phase == "draft" else None,
        incumbent=answering(experiment.arm(challenger)) if to == "promoted" and challenger is not None else None,
        replaced=answering(experiment.arm(INCUMBENT)) if to == "promoted" else None,
    )


def _is_due(promotion: Promoted | None, served: Mapping[str, Any] | None) -> bool:
    """Return whether a promoted challenger can be handed over to the server of the replaced incumbent."""
    if promotion is None or promotion.rolled_back or promotion.handed_over:
        return False
    own = _at_its_own(promotion.event.incumbent, promotion.event.replaced, served)
    return own is not None and bool(own["endpoint"]) and own != promotion.event.incumbent


def _refused(
    state: State, experiment: Experiment, kind: Kind, by: By, to: Phase | None, challenger: str | None
) -> Message | None:
    if kind == "kill":
        if state.phase == "promoted":
            return messages.PROMOTED()
        over = messages.OVER(phase=state.phase) if state.phase in OVER else None
        return messages.KILL_SWITCH_ON() if state.killed else over
    if kind == "resume":
        if state.phase in OVER:
            return messages.OVER(phase=state.phase)
        by_hand = messages.NOT_SWITCHED_OFF() if experiment.enabled else messages.OFF_IN_FILE()
        return None if state.killed else by_hand
    if to is None:
        return messages.NO_TARGET()
    challengers = [arm.name for arm in experiment.arms if arm.name != INCUMBENT]
    if to == "promoted" and challenger not in challengers:
        return messages.WHICH_CHALLENGER(challengers=", ".join(challengers))
    if to == "promoted" and (state.killed or not experiment.enabled):
        return messages.KILL_SWITCH_ON()
    return may_move(state, to, by)
