"""An experiment on a cluster: a custom resource, whose status keeps the history, and a ConfigMap with what is in force.

    resource = ExperimentResource.read(api, "spring")
    follow(resource, now, known)                 # what people ask for (pipelines.experiments.follow)
    next_step(resource, look, now)               # what the ramp does (pipelines.experiments.controller)

The history lies in `status.history`, and each event is written on condition that nothing else was: of two operators, or
of one that was believed dead, the second is refused by the API server, looks again, and finds what has happened. The
ConfigMap follows from spec and history, so whoever comes after a crash writes the same. It is read *before* the object
and written on condition that it is still the same: what follows from an older state of the object can't replace what
follows from a newer one, as an experiment that goes on would replace a kill switch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.history import Event, HistoryError, replaced_by, serves_since_before, state_of
from mtorl.experiment.layers import conflict
from mtorl.experiment.stage_machine import OVER, STAGES
from mtorl.log.dataset import DatasetSpec
from mtorl.runtime.validation import first_fault
from pipelines.experiments.api import REASON, Api
from pipelines.experiments.config_map import Entry, entries, write
from pipelines.experiments.controller import taken_back
from pipelines.experiments.handover import Neighbour
from pipelines.experiments.happened import happened
from serving.kubernetes_api import Object

BY_HAND = "offByHand"
"""Of the status, while somebody has switched it off in the ConfigMap: the reason that stood in the object then."""
_LONGEST_REASON = 1_000  # characters, as of a move


class NotItsTurn(ExperimentError):
    """The routers serve another experiment, which is about the same users and campaigns."""


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

    def switched_off(self) -> bool:
        """Whether people wrote `enabled: false`, whatever else is wrong with the spec."""
        return self.spec.get("enabled") is False

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
        """Hand it to the routers, unless somebody has just switched it off in the ConfigMap: `follow` sees to that.

        One that is over takes nobody's place: what came after it is in force.

        Raises:
            Conflict: Somebody has written it since it was read.
        """
        if experiment.enabled and self.switched_off_by_hand():
            return
        instead_of = [
            name for name in self._entries if name != self.name and self._conflict(name, experiment) is not None
        ]
        alive = self.name not in self._entries and any(self._api.experiment(name) is not None for name in instead_of)
        if alive and state_of(self.events(), experiment).phase in OVER:
            return
        changes = {self.name: experiment, **dict.fromkeys(instead_of)}
        self._config_map = write(self._api, self._config_map, changes)
        self._entries = entries(self._config_map)

    def is_edited(self) -> bool:
        """Whether routers read what somebody has written into the ConfigMap by hand."""
        entry = self._entries.get(self.name)
        return entry is not None and entry.edited

    def switched_off_by_hand(self) -> bool:
        """Whether the kill switch in the ConfigMap was used by hand and the object has no reply to it yet.

        A reply is `enabled: false`, or a reason that is not the one of then. Any other change says nothing of it.
        """
        kept = self.status.get(BY_HAND)
        if kept is not None and self.spec.get("enabled") and kept == self._reason():
            return True
        entry = self._entries.get(self.name)
        if entry is None or "observedGeneration" not in self.status or self.status.get("phase") not in STAGES:
            return False  # in a new one, nothing was switched off since
        return entry.experiment is not None and not entry.experiment.enabled and entry.edited

    def keep_switch(self, by_hand: bool) -> None:
        """Write down that somebody has used the kill switch in the ConfigMap, or that this is over.

        Raises:
            Conflict: The object has changed.
        """
        if by_hand != (BY_HAND in self.status):
            self.write({BY_HAND: self._reason() if by_hand else None})

    def switch_reason(self) -> str:
        """Why people use the kill switch now: what they say in the annotation `REASON`, or else what they did.

        A patch keeps an annotation that it does not name: what was the reason of the switch before says nothing now.
        """
        if BY_HAND in self.status:
            return "somebody has switched it off in the ConfigMap"
        said = self._reason()
        before = {event.reason for event in self.events() if event.kind in ("kill", "resume")}
        return said if said and said not in before else f"spec.enabled is {str(bool(self.spec.get('enabled'))).lower()}"

    def _reason(self) -> str:
        annotation = str((self.found["metadata"].get("annotations") or {}).get(REASON) or "")
        return annotation[:_LONGEST_REASON].strip()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nothing is locked: whatever is written is refused if the object has changed since it was read."""
        yield
