"""An experiment on a cluster: a custom resource, whose status keeps the history, and a ConfigMap with what is in force.

    resource = ExperimentResource.read(api, "spring")
    follow(resource, now, known)                 # what people ask for in `spec`: kill switch, moves
    next_step(resource, look, now)               # what the ramp does (pipelines.experiments.controller)

    kubectl patch exp NAME --type merge -p '{"spec": {"enabled": false}}'                            # the kill switch
    ... -p '{"metadata": {"annotations": {"mtorl-kubeflow/reason": "..."}}, "spec": {"enabled": false}}'       # and why
    kubectl patch exp NAME --type merge -p '{"spec": {"move": {"to": "stopped", "reason": "..."}}}'

The history lies in `status.history`, and each event is written on condition that nothing else was: of two operators, or
of one that was believed dead, the second is refused by the API server, looks again, and finds what has happened. The
ConfigMap follows from spec and history, so whoever comes after a crash writes the same. It is read *before* the object
and written on condition that it is still the same: what follows from an older state of the object can't replace what
follows from a newer one, as an experiment that goes on would replace a kill switch.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal, NamedTuple

import orjson
from pydantic import ValidationError, model_validator

from monitoring.experiments.look import unsupported
from monitoring.experiments.view import Known
from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.history import Event, HistoryError, IllegalEvent, replaced_by, serves_since_before, state_of
from mtorl.experiment.layers import conflict
from mtorl.experiment.stage_machine import OVER, STAGES, Phase
from mtorl.log.dataset import DatasetSpec
from mtorl.runtime.validation import StrictModel, Text, first_fault
from pipelines.experiments.api import REASON, Api, Object
from pipelines.experiments.config_map import Entry, entries, hand_over
from pipelines.experiments.controller import act, check_promotion, state, taken_back
from pipelines.experiments.handover import Neighbour
from pipelines.experiments.happened import happened

_LONGEST_REASON = 1_000  # characters, as of a move


class NotItsTurn(ExperimentError):
    """The routers serve another experiment, which is about the same users and campaigns."""


class MoveRequest(StrictModel):
    """A move that a person asks for. It is looked at once; to ask for the same again, give another reason."""

    to: Literal["shadow", "1%", "5%", "25%", "50%", "promoted", "stopped", "rolled back"]
    """Where to: a stage, from a draft the first one too; or the end."""
    challenger: Text | None = None
    """Who is promoted; by default, the only one."""
    reason: Text
    """Why, for the history."""
    force: bool = False
    """Of a promotion: also if no decision of the challenger is in the log, or the log can't be read."""

    @model_validator(mode="after")
    def _force_is_of_this_move(self) -> MoveRequest:
        if self.force and self.to in STAGES:
            # A patch keeps what it does not name: so the next try does not begin with it, and be promoted by it.
            raise ValueError("force is about a promotion: set it to null, since a patch keeps it")
        return self


class Declined(NamedTuple):
    """What people asked for and did not get."""

    words: str
    waits: bool = False
    """Whether it is looked at again; else it has to be asked for again."""


class ExperimentResource:
    """One object, as it was when it was read.

    Args:
        api: Of the API server.
        config_map: What the routers read, read before the object; None: there was none.
        found: The object.
        dataset: The data set's description, which the spec must fit; None: whatever it says.

    Attributes:
        found: The object, as it is since the last write.
        moved: Digest of the move that is being looked at: it is written with the event that it brings about.
    """

    def __init__(
        self, api: Api, config_map: Object | None, found: Mapping[str, Any], dataset: DatasetSpec | None = None
    ) -> None:
        self._api = api
        self._config_map = config_map
        self.found = dict(found)
        self._dataset = dataset
        self.moved: str | None = None

    @classmethod
    def read(cls, api: Api, name: str, dataset: DatasetSpec | None = None) -> ExperimentResource | None:
        """The object of that name as it is now; None: there is none."""
        config_map = api.in_force()
        found = api.experiment(name)
        return None if found is None else cls(api, config_map, found, dataset)

    @property
    def name(self) -> str:
        """Of the object."""
        return str(self.found["metadata"]["name"])

    @property
    def spec(self) -> Mapping[str, Any]:
        """What people wrote, as it is."""
        return self.found.get("spec") or {}

    @property
    def status(self) -> Mapping[str, Any]:
        """What the operator has written so far."""
        return self.found.get("status") or {}

    @property
    def generation(self) -> int:
        """Counts the changes of the spec."""
        return int(self.found["metadata"].get("generation", 0))

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        return entries(self._config_map)

    def definition(self) -> Experiment:
        """The spec as an experiment.

        Raises:
            ExperimentError: It can't be used.
        """
        experiment = self.written()
        if self._dataset is not None:
            experiment.check(self._dataset)
        self._check_turn(experiment)
        return experiment

    def written(self) -> Experiment:
        """What people wrote, also if it is not its turn.

        Raises:
            ExperimentError: It is no experiment.
        """
        fields = {name: value for name, value in self.spec.items() if name != "move"}
        experiment = Experiment.from_dict({"name": self.name, **fields})
        experiment.check_written()
        return experiment

    def _check_turn(self, experiment: Experiment) -> None:
        """Refuse it beside one that decides about the same users and campaigns, or what another one has promoted."""
        for other, reason in self._in_the_way(experiment):
            if other.status.get("phase") not in OVER:
                raise NotItsTurn(f"{reason}; {other.name} is not over: stop it, or wait for its end")
            if (promotion := serves_since_before(other.events(), experiment)) is not None:
                raise ExperimentError(taken_back(promotion, experiment))

    def _in_the_way(self, experiment: Experiment) -> Iterator[tuple[ExperimentResource, str]]:
        """Others whose requests it would decide, and in which words."""
        others = [name for name in self._entries if name != self.name]
        if self.status.get("phase") not in STAGES:  # the ConfigMap may be gone
            begun = (one for one in self._api.experiments() if (one.get("status") or {}).get("phase") in STAGES)
            others += [name for one in begun if (name := str(one["metadata"]["name"])) not in (self.name, *others)]
        for name in others:
            reason = self._conflict(name, experiment)
            if reason is not None and (found := self._api.experiment(name)) is not None:
                yield ExperimentResource(self._api, None, found), reason

    def _conflict(self, name: str, experiment: Experiment) -> str | None:
        """Why another one can't be in force beside it; None: it can."""
        entry = self._entries.get(name)
        their = entry.experiment if entry is not None else None
        if their is None and (found := self._api.experiment(name)) is not None:  # broken, or gone, in the ConfigMap
            with contextlib.suppress(ExperimentError):
                their = ExperimentResource(self._api, None, found).written()
        return f"{name} can't be read, and may be in its way" if their is None else conflict(their, experiment)

    def events(self) -> list[Event]:
        """The history in its status.

        Raises:
            HistoryError: It can't be read.
        """
        events = []
        for number, given in enumerate(self.status.get("history") or (), start=1):
            try:
                event = Event.model_validate(given)
            except ValidationError as error:
                raise HistoryError(f"status.history[{number - 1}] is no event: {first_fault(error)}") from None
            if event.number != number:
                raise HistoryError(f"status.history[{number - 1}] has number {event.number}: events are missing")
            events.append(event)
        return events

    def append(self, event: Event) -> None:
        """Write what happens.

        Raises:
            Conflict: Something else has happened to the object.
        """
        fields = {} if self.moved is None else {"move": self.moved}
        history = [*(self.status.get("history") or ()), event.model_dump(mode="json")]
        self.write({"history": history, "happened": happened([*self.events(), event]), **fields})

    def write(self, status: Mapping[str, Any]) -> None:
        """Write fields of the status.

        Raises:
            Conflict: The object has changed.
        """
        if all(self.status.get(name) == value for name, value in status.items()):
            return
        # Replaced, not patched: a patch would leave out what is null, also inside of the history's events.
        merged = {name: value for name, value in {**self.status, **status}.items() if value is not None}
        self.found = self._api.replace_status({**self.found, "status": merged})

    def last_in_force(self) -> Experiment | None:
        """What the routers read, if it is of this object."""
        entry = self._entries.get(self.name)
        return None if entry is None else entry.experiment

    def others_in_force(self) -> Iterator[Neighbour]:
        """What the routers read of other objects."""
        for name, entry in self._entries.items():
            if name != self.name and (serving := entry.experiment) is not None:
                found = self._api.experiment(name) or {"metadata": {"name": name}}
                other = ExperimentResource(self._api, None, found)
                goes_on = serving.enabled or other.status.get("phase") in STAGES
                try:
                    before = replaced_by(other.events())
                except HistoryError:  # perhaps it has promoted something
                    before = serving.arm(INCUMBENT).url
                yield Neighbour(serving, over=not goes_on, before=before)

    def put_in_force(self, experiment: Experiment) -> None:
        """Hand it to the routers, switched off if somebody has switched it off in the ConfigMap.

        One that is over takes nobody's place: what came after it is in force.

        Raises:
            Conflict: Somebody has written it since it was read.
        """
        off = self.switched_off_by_hand()
        serving = experiment.replace(enabled=False) if off else experiment
        instead_of = [
            name for name in self._entries if name != self.name and self._conflict(name, experiment) is not None
        ]
        alive = self.name not in self._entries and any(self._api.experiment(name) is not None for name in instead_of)
        if alive and state_of(self.events(), experiment).phase in OVER:
            return
        off_at = self.generation if off else None
        self._config_map = hand_over(self._api, self._config_map, self.name, serving, off_at, instead_of)
        self._entries = entries(self._config_map)

    def switched_off_by_hand(self) -> bool:
        """Whether somebody in a hurry has used the kill switch in the ConfigMap. A change of the object undoes that."""
        entry = self._entries.get(self.name)
        if entry is None or "observedGeneration" not in self.status:
            return False  # in a new one, nothing was switched off since
        if entry.off_at is not None:
            return entry.off_at == self.generation
        return entry.experiment is not None and not entry.experiment.enabled and entry.edited

    def switch_reason(self) -> str:
        """Why people use the kill switch now: what they say in the annotation `REASON`, or else what they did.

        A patch keeps an annotation that it does not name: what was the reason of the switch before says nothing now.
        """
        annotation = str((self.found["metadata"].get("annotations") or {}).get(REASON) or "")
        said = annotation[:_LONGEST_REASON].strip()
        before = {event.reason for event in self.events() if event.kind in ("kill", "resume")}
        return said if said and said not in before else f"spec.enabled is {str(bool(self.spec.get('enabled'))).lower()}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nothing is locked: whatever is written is refused if the object has changed since it was read."""
        yield


def follow(resource: ExperimentResource, now: float, known: Mapping[tuple[str, str], Known]) -> Declined | None:
    """Do what people ask for in the spec: the kill switch, then a move that was not looked at yet.

    Args:
        resource: The experiment.
        now: Seconds since 1970.
        known: What their log said last of each, by name and salt.

    Returns:
        Why what was asked for last is not done; None: it was.

    Raises:
        ExperimentError: The spec can't be used. The kill switch works all the same.
        HistoryError: The history can't be read. The kill switch works all the same.
        Conflict: The object has changed meanwhile.
    """
    off = resource.spec.get("enabled") is False
    serving = resource.last_in_force()
    if off and serving is not None and serving.enabled:
        # Before the history: that may be full, or be more than can be written now.
        resource.put_in_force(serving.replace(enabled=False))
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
            "a challenger is promoted, and goes on: a move to rolled back gives everybody the incumbent of before"
        )
    return declined


def _harm_ends(
    resource: ExperimentResource,
    serving: Experiment,
    off: bool,
    now: float,
    known: Mapping[tuple[str, str], Known],
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
        phase: Phase = move.to
        challenger = (move.challenger or _only_challenger(resource)) if phase == "promoted" else None
        if _was_made(resource, phase, challenger, move.reason):
            raise IllegalEvent(f"{phase} was asked for in the same words before, and made: give another reason")
        evidence = None
        if phase == "promoted":
            check_promotion(resource, challenger)
            found = known.get((resource.name, str(resource.spec.get("salt"))))
            if found is None and not move.force:
                return Declined("its promotion waits until the log was looked at, which takes a minute", waits=True)
            evidence = None if found is None else found.evidence
            missing = None if found is None else unsupported(found, str(challenger))
            if missing is not None and not move.force:
                raise IllegalEvent(f"{missing}: nothing supports a promotion; `force: true` promotes it all the same")
        act(
            resource,
            "move",
            by="person",
            reason=move.reason,
            at=now,
            to=phase,
            challenger=challenger,
            evidence=evidence,
        )
    except ValidationError as error:
        refused = f"move: {first_fault(error)}"
    except IllegalEvent as error:
        refused = str(error)
    else:
        return None
    resource.write({"move": resource.moved})
    return Declined(refused)


def _was_made(resource: ExperimentResource, to: Phase, challenger: str | None, reason: str) -> bool:
    """Whether it is an older move of this experiment: a file that has it is applied again, after other moves."""
    return any(
        (event.by, event.to, event.challenger, event.reason) == ("person", to, challenger, reason.strip())
        for event in resource.events()
        if event.salt == resource.spec.get("salt")
    )


def _only_challenger(resource: ExperimentResource) -> str | None:
    names = [arm.name for arm in resource.definition().arms if arm.name != INCUMBENT]
    return names[0] if len(names) == 1 else None
