"""An experiment on a cluster: a custom resource with its history in the status, and a ConfigMap with what is in force.

    resource = ExperimentResource.read(api, "spring")
    follow(resource, now, findings)              # kill switch and moves (pipelines.experiments.moves)
    next_step(resource, read_evidence, now)      # the ramp (pipelines.experiments.controller)

Each event is written on condition that the object has not changed: of two operators, the second is refused by the API
server, reads again, and finds the event. The ConfigMap follows from spec and history, so the next operator after a
crash writes the same. It is read *before* the object and written on condition that it has not changed: what follows
from an older state of the object can't replace what follows from a newer one, such as a kill switch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.history import Event, HistoryError, events_of, replaced_by, serves_since_before, state_of
from mtorl.experiment.layers import conflict
from mtorl.experiment.stage_machine import OVER, STAGES
from mtorl.log.dataset import DatasetSpec
from mtorl.runtime.message import Message
from pipelines import messages
from pipelines.experiments.cluster_api import REASON, ClusterApi, Entry
from pipelines.experiments.controller import would_revert
from pipelines.experiments.handover import Neighbour
from serving.kubernetes_api import Object

BY_HAND = "offByHand"
"""Of the status, while somebody has switched it off in the ConfigMap: the reason that stood in the object then."""
_LONGEST_REASON = 1_000  # characters, as of a move
_BY = {"ramp": "the ramp", "person": "a person"}


class NotItsTurn(ExperimentError):
    """The routers serve another experiment on the same users and campaigns."""


class ExperimentResource:
    """One object, as it was read.

    Args:
        config_map: Read before the object; None: there was none.
        dataset: The data set's description, which the spec must fit; None: it is not checked.

    Attributes:
        found: The object, as it is since the last write.
        moved: Digest of the move that is being handled: it is written with the event that it causes.
    """

    def __init__(
        self, api: ClusterApi, config_map: Object | None, found: Mapping[str, Any], dataset: DatasetSpec | None = None
    ) -> None:
        self._api = api
        self._config_map = config_map
        self.found = dict(found)
        self.name = str(found["metadata"]["name"])
        self.generation = int(found["metadata"].get("generation", 0))
        self.spec: Mapping[str, Any] = found.get("spec") or {}
        self._dataset = dataset
        self.moved: str | None = None

    @classmethod
    def read(cls, api: ClusterApi, name: str, dataset: DatasetSpec | None = None) -> ExperimentResource | None:
        """The object as it is now; None: there is none."""
        config_map = api.in_force()
        found = api.experiment(name)
        return None if found is None else cls(api, config_map, found, dataset)

    @property
    def status(self) -> Mapping[str, Any]:
        """Status that the operator wrote."""
        return self.found.get("status") or {}

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        return self._api.entries(self._config_map)

    def definition(self) -> Experiment:
        """The spec as an experiment. ExperimentError: it can't be used, or not now."""
        experiment = self.written()
        if self._dataset is not None:
            experiment.check(self._dataset)
        self._check_turn(experiment)
        return experiment

    def written(self) -> Experiment:
        """The spec as an experiment, also if it is not its turn. ExperimentError: it is no experiment."""
        fields = {name: value for name, value in self.spec.items() if name != "move"}
        return Experiment.from_dict({"name": self.name, **fields}, self._api.tables)

    def switched_off(self) -> bool:
        """Whether the spec has `enabled: false`, also if nothing else of it can be used."""
        return self.spec.get("enabled") is False

    def _check_turn(self, experiment: Experiment) -> None:
        """Refuse a second experiment on the same users and campaigns, and one that reverts another one's promotion."""
        for other, reason in self._in_the_way(experiment):
            if other.status.get("phase") not in OVER:
                raise NotItsTurn(messages.NOT_OVER(conflict=reason, other=other.name))
            if (promotion := serves_since_before(other.events(), experiment)) is not None:
                raise ExperimentError(would_revert(promotion, experiment))

    def _in_the_way(self, experiment: Experiment) -> Iterator[tuple[ExperimentResource, Message]]:
        """Other experiments on the same requests, each with the conflict in words."""
        others = [name for name in self._entries if name != self.name]
        if self.status.get("phase") not in STAGES:  # the ConfigMap may be gone
            begun = (one for one in self._api.experiments() if (one.get("status") or {}).get("phase") in STAGES)
            others += [name for one in begun if (name := str(one["metadata"]["name"])) not in (self.name, *others)]
        for name in others:
            reason = self._conflict(name, experiment)
            if reason is not None and (found := self._api.experiment(name)) is not None:
                yield ExperimentResource(self._api, None, found), reason

    def _conflict(self, name: str, experiment: Experiment) -> Message | None:
        """Reason why another one can't be in force at the same time; None: it can."""
        entry = self._entries.get(name)
        their = entry.experiment if entry is not None else None
        if their is None and (found := self._api.experiment(name)) is not None:  # broken, or gone, in the ConfigMap
            with contextlib.suppress(ExperimentError):
                their = ExperimentResource(self._api, None, found).written()
        return messages.IN_ITS_WAY(name=name) if their is None else conflict(their, experiment)

    def events(self) -> list[Event]:
        """The history in its status. HistoryError: it can't be read."""
        return events_of(self.status.get("history") or (), "status.history: entry")

    def append(self, event: Event) -> None:
        """Write an event into the history. Conflict: the object has changed."""
        fields = {} if self.moved is None else {"move": self.moved}
        history = [*(self.status.get("history") or ()), event.model_dump(mode="json")]
        self.write({"history": history, **fields})

    def write(self, status: Mapping[str, Any]) -> None:
        """Write fields of the status. Conflict: the object has changed."""
        if all(self.status.get(name) == value for name, value in status.items()):
            return
        # Replaced, not patched: a patch would leave out what is null, also inside of the history's events.
        merged = {name: value for name, value in {**self.status, **status}.items() if value is not None}
        self.found = self._api.replace_status({**self.found, "status": merged})

    def last_in_force(self) -> Experiment | None:
        """The experiment of this object that routers read, if any."""
        entry = self._entries.get(self.name)
        return None if entry is None else entry.experiment

    def others_in_force(self) -> Iterator[Neighbour]:
        """The experiments of other objects that routers read."""
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

    def apply_experiment(self, experiment: Experiment) -> None:
        """Send an experiment to the routers, unless a person has just switched it off in the ConfigMap.

        One that is over takes no other's place. Conflict: the ConfigMap has changed since it was read.
        """
        if experiment.enabled and self.switched_off_by_hand():
            return
        instead_of = [name for name in self._entries if name != self.name and self._conflict(name, experiment)]
        alive = self.name not in self._entries and any(self._api.experiment(name) is not None for name in instead_of)
        if alive and state_of(self.events(), experiment).phase in OVER:
            return
        changes = {self.name: experiment, **dict.fromkeys(instead_of)}
        self._config_map = self._api.write(self._config_map, changes)
        self._entries = self._api.entries(self._config_map)

    def switch_off(self) -> None:
        """Take the routers off an experiment of which something is in force, whether or not it can be read.

        Conflict: the ConfigMap has changed since it was read.
        """
        self._config_map = self._api.switch_off(self._config_map, self.name)
        self._entries = self._api.entries(self._config_map)

    def is_followed(self) -> bool:
        """Whether the operator has followed this spec, with the same reason for a kill by hand."""
        accepted = (one for one in self.status.get("conditions") or () if one["type"] == "Accepted")
        followed = any(one.get("observedGeneration") == self.generation for one in accepted)
        return followed and self.status.get(BY_HAND) in (None, self._reason())

    def is_edited(self) -> bool:
        """Whether routers read an edit of the ConfigMap by hand."""
        entry = self._entries.get(self.name)
        return entry is not None and entry.edited

    def switched_off_by_hand(self) -> bool:
        """Whether the kill switch in the ConfigMap was used by hand and the object has no reply to it yet.

        A reply is `enabled: false`, or a new reason. Any other change is none.
        """
        kept = self.status.get(BY_HAND)
        if kept is not None and self.spec.get("enabled") and kept == self._reason():
            return True
        entry = self._entries.get(self.name)
        if entry is None or "observedGeneration" not in self.status or self.status.get("phase") not in STAGES:
            return False  # in a new one, nothing was switched off since
        return entry.switched_off and entry.edited

    def keep_switch(self, by_hand: bool) -> None:
        """Keep in the status that the kill switch in the ConfigMap was used, or that this is over."""
        if by_hand != (BY_HAND in self.status):
            self.write({BY_HAND: self._reason() if by_hand else None})

    def switch_reason(self) -> str:
        """Reason for the use of the kill switch: the annotation `REASON`, or else the action.

        A patch keeps an annotation that it does not name, so a reason counts once.
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
        """Does nothing: the API server refuses a write if the object has changed since it was read."""
        yield


def in_words(event: Event) -> str:
    """An event with its author and reason, such as "5% by the ramp: 24 hours at shadow are over"."""
    who = f" {event.challenger}" if event.challenger is not None else ""
    return f"{event.to or event.kind}{who} by {_BY[event.by]}: {event.reason}"
