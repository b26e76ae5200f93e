"""Stores an experiment on a cluster: definition and history in an Experiment object, the active version in a ConfigMap.

The ConfigMap is read *before* the object, and written only if it has not changed since. So an operator that has read an
old object can't undo a newer change, such as a kill.
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
"""Name of a status field. While the experiment is switched off in the ConfigMap, the field contains the object's reason
annotation from the time of the switch."""
_LONGEST_REASON = 1_000
_BY = {"ramp": "the ramp", "person": "a person"}


class NotItsTurn(ExperimentError):
    """Raised if another active experiment has the same users and campaigns."""


class ExperimentResource:
    """An `Experiment` object as it was read from the API server. Implements `ExperimentStore`.

    Args:
        config_map: ConfigMap of active experiments, read before the object. None means that it does not exist.
        dataset: Description of the data set that the spec must fit. None skips this check.

    Attributes:
        found: The object after the last write.
        moved: Digest of the move in the spec, which `append` records together with the event.
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
        """Read the object with a name; None if there is none."""
        config_map = api.in_force()
        found = api.experiment(name)
        return None if found is None else cls(api, config_map, found, dataset)

    @property
    def status(self) -> Mapping[str, Any]:
        """Return the object's status."""
        return self.found.get("status") or {}

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        return self._api.entries(self._config_map)

    def definition(self) -> Experiment:
        """Parse and check the spec. Raises ExperimentError if it is invalid or conflicts with another experiment."""
        experiment = self.written()
        if self._dataset is not None:
            experiment.check(self._dataset)
        self._check_turn(experiment)
        return experiment

    def written(self) -> Experiment:
        """Parse the spec without checking for conflicts. Raises ExperimentError if it is invalid."""
        fields = {name: value for name, value in self.spec.items() if name != "move"}
        return Experiment.from_dict({"name": self.name, **fields}, self._api.tables)

    def switched_off(self) -> bool:
        """Return whether the spec has `enabled: false`, even if it is otherwise invalid."""
        return self.spec.get("enabled") is False

    def _check_turn(self, experiment: Experiment) -> None:
        for other, reason in self._in_the_way(experiment):
            if other.status.get("phase") not in OVER:
                raise NotItsTurn(messages.NOT_OVER(conflict=reason, other=other.name))
            if (promotion := serves_since_before(other.events(), experiment)) is not None:
                raise ExperimentError(would_revert(promotion, experiment))

    def _in_the_way(self, experiment: Experiment) -> Iterator[tuple[ExperimentResource, Message]]:
        """Yield the experiments that would decide the same requests, each with a message."""
        others = [name for name in self._entries if name != self.name]
        # Read the objects as well, because the ConfigMap may have been deleted.
        if self.status.get("phase") not in STAGES:
            begun = (one for one in self._api.experiments() if (one.get("status") or {}).get("phase") in STAGES)
            others += [name for one in begun if (name := str(one["metadata"]["name"])) not in (self.name, *others)]
        for name in others:
            reason = self._conflict(name, experiment)
            if reason is not None and (found := self._api.experiment(name)) is not None:
                yield ExperimentResource(self._api, None, found), reason

    def _conflict(self, name: str, experiment: Experiment) -> Message | None:
        """Return why another experiment can't be active at the same time, or None."""
        entry = self._entries.get(name)
        their = entry.experiment if entry is not None else None
        if their is None and (found := self._api.experiment(name)) is not None:
            with contextlib.suppress(ExperimentError):
                their = ExperimentResource(self._api, None, found).written()
        return messages.IN_ITS_WAY(name=name) if their is None else conflict(their, experiment)

    def events(self) -> list[Event]:
        """Read the history from the object's status. Raises HistoryError if it can't be read."""
        return events_of(self.status.get("history") or (), "status.history: entry")

    def append(self, event: Event) -> None:
        """Append an event to the history. Raises Conflict if the object has changed since it was read."""
        fields = {} if self.moved is None else {"move": self.moved}
        history = [*(self.status.get("history") or ()), event.model_dump(mode="json")]
        self.write({"history": history, **fields})

    def write(self, status: Mapping[str, Any]) -> None:
        """Write some fields of the status. Raises Conflict if the object has changed since it was read."""
        if all(self.status.get(name) == value for name, value in status.items()):
            return
        # A patch would remove null fields inside the events of the history.
        merged = {name: value for name, value in {**self.status, **status}.items() if value is not None}
        self.found = self._api.replace_status({**self.found, "status": merged})

    def last_in_force(self) -> Experiment | None:
        """Return the active experiment of this object; None if there is no valid one."""
        entry = self._entries.get(self.name)
        return None if entry is None else entry.experiment

    def others_in_force(self) -> Iterator[Neighbour]:
        """Yield the active experiments of all other objects."""
        for name, entry in self._entries.items():
            if name != self.name and (serving := entry.experiment) is not None:
                found = self._api.experiment(name) or {"metadata": {"name": name}}
                other = ExperimentResource(self._api, None, found)
                goes_on = serving.enabled or other.status.get("phase") in STAGES
                try:
                    before = replaced_by(other.events())
                # The unreadable history may contain a promotion, so assume that its server is still needed.
                except HistoryError:
                    before = serving.arm(INCUMBENT).url
                yield Neighbour(serving, over=not goes_on, before=before)

    def apply_experiment(self, experiment: Experiment) -> None:
        """Make this the active experiment, unless a person has just used the kill switch in the ConfigMap.

        Raises Conflict if the ConfigMap has changed since it was read.
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
        """Switch off the active experiment, even if its text in the ConfigMap is invalid.

        Raises Conflict if the ConfigMap has changed since it was read.
        """
        self._config_map = self._api.switch_off(self._config_map, self.name)
        self._entries = self._api.entries(self._config_map)

    def is_followed(self) -> bool:
        """Return whether the operator has handled the present spec and kill reason."""
        accepted = (one for one in self.status.get("conditions") or () if one["type"] == "Accepted")
        followed = any(one.get("observedGeneration") == self.generation for one in accepted)
        return followed and self.status.get(BY_HAND) in (None, self._reason())

    def is_edited(self) -> bool:
        """Return whether a person has edited this experiment in the ConfigMap."""
        entry = self._entries.get(self.name)
        return entry is not None and entry.edited

    def switched_off_by_hand(self) -> bool:
        """Return whether a person has used the ConfigMap's kill switch, without confirming it in the object."""
        kept = self.status.get(BY_HAND)
        if kept is not None and self.spec.get("enabled") and kept == self._reason():
            return True
        entry = self._entries.get(self.name)
        if entry is None or "observedGeneration" not in self.status or self.status.get("phase") not in STAGES:
            # The experiment does not run, so there was nothing to switch off.
            return False
        return entry.switched_off and entry.edited

    def keep_switch(self, by_hand: bool) -> None:
        """Record in the status whether the kill switch in the ConfigMap is on."""
        if by_hand != (BY_HAND in self.status):
            self.write({BY_HAND: self._reason() if by_hand else None})

    def switch_reason(self) -> str:
        """Return the reason for using the kill switch.

        The reason of an earlier event is ignored, because it may only be an annotation that a merge patch has kept.
        """
        if BY_HAND in self.status:
            return "switched off in the ConfigMap by a person"
        said = self._reason()
        before = {event.reason for event in self.events() if event.kind in ("kill", "resume")}
        return said if said and said not in before else f"spec.enabled is {str(bool(self.spec.get('enabled'))).lower()}"

    def _reason(self) -> str:
        annotation = str((self.found["metadata"].get("annotations") or {}).get(REASON) or "")
        return annotation[:_LONGEST_REASON].strip()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Do nothing, because the API server refuses a write if the object was changed meanwhile."""
        yield


def in_words(event: Event) -> str:
    """Format an event with its author and reason."""
    who = f" {event.challenger}" if event.challenger is not None else ""
    return f"{event.to or event.kind}{who} by {_BY[event.by]}: {event.reason}"
