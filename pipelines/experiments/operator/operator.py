"""Moves Experiment objects between stages, as a person or the automatic ramp decides, and writes their status.

An error with one object affects no other object.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from monitoring.experiments.document import View
from monitoring.experiments.findings import Findings
from mtorl.experiment.experiment import Experiment, ExperimentError
from mtorl.experiment.history import Event, HistoryError
from mtorl.experiment.messages import OVER as IS_OVER
from mtorl.experiment.stage_machine import (
    FAULTS,
    OVER,
    STAGES,
    Evidence,
    Hold,
    Move,
    Requirement,
    State,
    consider,
    in_force,
    requirements,
)
from mtorl.experiment.stages import stages_before
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import LogError
from mtorl.runtime.clock_jumps import ClockJumps
from mtorl.runtime.message import Message
from pipelines import messages
from pipelines.experiments.cluster_api import ClusterApi, Entry
from pipelines.experiments.controller import BELIEVED_AFTER, apply_experiment, next_step, state
from pipelines.experiments.handover import hand_over
from pipelines.experiments.moves import follow
from pipelines.experiments.operator import status
from pipelines.experiments.operator.log_reader import LogReader
from pipelines.experiments.operator.routers import Routers
from pipelines.experiments.resource import ExperimentResource, NotItsTurn, in_words
from serving.kubernetes_api import Conflict
from serving.model_servers import ModelServers

log = logging.getLogger(__name__)
_TOLD = (
    "Unusable",
    "NotItsTurn",
    "NotInGit",
    "GoneOn",
    "Refused",
    "Held",
    "Changed",
    "VersionUnknown",
)  # a condition with one of these reasons is also written as a Kubernetes event
# Attempts to write an object that other processes change at the same time.
_TRIES = 8


class Operator:
    """The operator of the experiments in one namespace.

    Args:
        dataset: Description of the data set that each spec must fit. None skips this check.
    """

    def __init__(self, api: ClusterApi, reader: LogReader, dataset: DatasetSpec | None, servers: ModelServers) -> None:
        self._api = api
        self._reader = reader
        self._dataset = dataset
        self._servers = servers
        self._clock: Callable[[], float] = time.time
        self._jumps = ClockJumps(time.monotonic)
        self._lock = threading.Lock()
        self._faults: dict[str, str] = {}
        # Objects whose promotion may need a hand-over. After a restart, these are all objects with a promotion in their
        # history.
        self._promoted: set[str] = set()
        # Salt and findings of each object. Findings under another salt are outdated.
        self._found: dict[str, tuple[str, Findings]] = {}
        self.routers = Routers()
        self.leads = False

    def changed(self, name: str) -> None:
        """Apply the kill switch and the moves of an object that was changed or deleted."""
        if self._again(name):
            self._promoted.add(name)

    def settle(self) -> None:
        """Move promoted models to the incumbent's servers, and undo this after a rollback.

        `watch` does not do this, because a change in KServe may take ten seconds, which would delay a kill switch.
        """
        while self._promoted:
            self._settle(self._promoted.pop())

    def advance(self) -> None:
        """Read the decision log of each experiment, and make the next move of its ramp."""
        names = [str(found["metadata"]["name"]) for found in self._api.experiments()]
        # Handle changes of all objects first, because reading a log takes long.
        for act in (self.changed, self._advance):
            for name in names:
                _guarded(act, name)

    def watch(self) -> None:
        """Handle all specs, ConfigMap keys and kill reasons that have changed since the last call."""
        objects = {str(one["metadata"]["name"]): one for one in self._api.experiments()}
        # Read the ConfigMap last, so that it is at least as new as the objects.
        config_map = self._api.in_force()
        in_force = self._api.entries(config_map)
        for name in {**objects, **in_force}:
            entry = in_force.get(name)
            serving = entry and entry.experiment
            # The object was deleted, or a person has copied its key.
            if name not in objects:
                if serving is None or serving.enabled or serving.name != name:
                    _guarded(self.changed, name)
                continue
            resource = ExperimentResource(self._api, config_map, objects[name])
            if not resource.is_followed() or (entry is not None and (serving is None or entry.edited)):
                _guarded(self.changed, name)
            elif serving is not None and self.leads:
                said = self.routers.condition(serving.name, serving.version)
                if said.reason != "Behind":
                    said = status.edited(resource, self._api.namespace) or said
                # The next call of `watch` tries again.
                with contextlib.suppress(Conflict):
                    self._say(resource, {"version": serving.version}, said)

    def views(self) -> list[View]:
        """Build the documents of all experiments, without reading a log."""
        objects = self._api.experiments()
        names = {one["metadata"]["name"] for one in objects}
        for gone in set(self._found) - names:
            self._found.pop(gone, None)
        return status.views_of(self._api, objects, self._findings, self._clock())

    def in_force(self) -> dict[str, Entry]:
        """Return the active experiments, by the name of their object."""
        return self._api.entries(self._api.in_force())

    def _again(self, name: str) -> bool:
        for _ in range(_TRIES):
            with self._lock:
                try:
                    promoted = self._follow(name)
                    self._faults.pop(name, None)
                    return promoted
                except Conflict:
                    pass
                # The next call of `watch` tries again.
                except OSError as error:
                    if self._faults.get(name) != str(error):
                        log.warning("%s: the API server does not answer, or refuses: %s", name, error)
                    self._faults[name] = str(error)
                    return False
            time.sleep(0.05)
        return False

    def _follow(self, name: str) -> bool:
        """Apply an object's spec, and return whether its history contains a promotion."""
        resource = ExperimentResource.read(self._api, name, self._dataset)
        known = len(_history(resource))
        if resource is None:
            for ended in self._api.end_orphans():
                log.warning("%s has no object: all users get the incumbent", ended)
            return False
        try:
            with self._events(resource):
                declined = follow(resource, self._clock(), self._findings(name, str(resource.spec.get("salt"))))
                apply_experiment(resource)
        except (ExperimentError, HistoryError) as error:
            words = messages.NOT_ITS_TURN if isinstance(error, NotItsTurn) else messages.UNUSABLE
            goes_on = "nothing was applied" if resource.last_in_force() is None else "the active version stays active"
            said = status.Condition("Accepted", "False", words(fault=error, goes_on=goes_on))
        else:
            said = status.Condition("Accepted", "True", declined or _still_refused(resource) or messages.USABLE())
        standing = self._standing(resource)
        anew = len(_history(resource)) > known or any(resource.status.get(key) != standing[key] for key in standing)
        awaiting = status.awaiting_routers(resource, self._api.namespace)
        further = [self._until_looked(resource) if anew else None, awaiting]
        serving = resource.last_in_force()
        version = {} if serving is None else {"version": serving.version}
        self._say(resource, {**standing, **version}, said, *(one for one in further if one is not None))
        return any(event.get("to") == "promoted" for event in _history(resource))

    def _until_looked(self, resource: ExperimentResource) -> status.Condition | None:
        """Return the condition Progressing until the log is read, or None if spec or history is invalid."""
        try:
            experiment, stands = state(resource)
        except (ExperimentError, HistoryError):
            return None
        now = self._clock()
        step = consider(experiment, stands, None, now)
        # Only `advance` makes the moves of the ramp.
        if isinstance(step, Move):
            step = Hold((messages.LOG_IN_A_MINUTE(),))
        return _progress(stands, step, Findings(), requirements(experiment, stands, None, now))

    def _settle(self, name: str) -> None:
        for _ in range(_TRIES):
            try:
                return self._settle_once(name)
            # The history may have been written, but not the ConfigMap.
            except Conflict:
                self._again(name)
            except OSError as error:
                return log.warning("the API server does not answer, or refuses: %s", error)

    def _settle_once(self, name: str) -> None:
        resource = ExperimentResource.read(self._api, name, self._dataset)
        if resource is None:
            return
        try:
            with self._events(resource):
                standing = hand_over(resource, self._servers, resource.others_in_force(), self._clock())
        except (ExperimentError, HistoryError):
            # The condition `Accepted` already has the reason.
            return
        # The next call of `advance` tries again.
        except OSError as error:
            said = status.Condition("Settled", "Unknown", messages.NOT_KNOWN(fault=error))
        else:
            if standing is None:
                said_before = resource.status.get("conditions") or ()
                resource.write({"conditions": [one for one in said_before if one["type"] != "Settled"]})
                return
            said = status.Condition("Settled", "True" if standing.done else "False", standing.words)
        self._say(resource, self._standing(resource), said)

    def _advance(self, name: str) -> None:
        looked: dict[tuple[str, float], Findings] = {}
        for _ in range(_TRIES):
            try:
                return self._step(name, looked)
            # The log is read again only if the version or the stage has changed.
            except Conflict:
                log.info("%s has changed while its log was read", name)

    def _step(self, name: str, looked: dict[tuple[str, float], Findings]) -> None:
        resource = ExperimentResource.read(self._api, name, self._dataset)
        if resource is None:
            return
        now = self._clock()

        def read_evidence(experiment: Experiment, since: float) -> Evidence | None:
            asked = experiment.version, since
            if asked not in looked:
                looked[asked] = self._reader.read(experiment, since, now)
            self._found[name] = experiment.salt, looked[asked]
            return looked[asked].evidence

        reached = self._jumps.before(now, BELIEVED_AFTER) + BELIEVED_AFTER
        try:
            with self._events(resource):
                step = next_step(resource, read_evidence, now, reached)
            experiment, stands = state(resource)
            findings = self._findings(name, experiment.salt)
            if stands.phase == "draft":
                self._found.pop(name, None)
            # The page needs figures even for an experiment that is over, so read the log once.
            elif findings is None or findings.verdict is None:
                read_evidence(in_force(experiment, stands), stands.since or 0.0)
        except (ExperimentError, HistoryError):
            return
        except (LogError, OSError) as error:
            salt = str(resource.spec.get("salt"))
            self._found[name] = salt, replace(self._findings(name, salt) or Findings(), problem=str(error))
            self._say(resource, {}, status.Condition("Progressing", "False", messages.LOG_UNREADABLE(fault=error)))
            return
        findings = self._findings(name, experiment.salt) or Findings()
        known = findings.verdict
        figures: dict[str, Any] = {} if known is None else status.figures_of(known, findings.spend)
        needed = requirements(experiment, stands, findings.evidence, now)
        self._say(resource, {**figures, **self._standing(resource)}, _progress(stands, step, findings, needed))

    def _standing(self, resource: ExperimentResource) -> dict[str, Any]:
        standing: dict[str, Any] = {"phase": resource.status.get("phase", State().phase)}
        with contextlib.suppress(ExperimentError, HistoryError):
            experiment, found = state(resource)
            standing = {"phase": found.phase, "since": None if found.since is None else status.iso(found.since)}
            # Do not show the figures of a previous experiment.
            others = resource.name in self._found and self._findings(resource.name, experiment.salt) is None
            standing |= dict.fromkeys(status.FIGURES) if found.phase == "draft" or others else {}
        enabled, serving = bool(resource.spec.get("enabled")), resource.last_in_force()
        if serving is not None and standing["phase"] in STAGES:
            # Show the state that the routers use, even if a person has edited the ConfigMap.
            enabled = serving.enabled
        return {**standing, "enabled": enabled}

    def _findings(self, name: str, salt: str) -> Findings | None:
        found = self._found.get(name)
        return None if found is None or found[0] != salt else found[1]

    @contextlib.contextmanager
    def _events(self, resource: ExperimentResource) -> Iterator[None]:
        """Write a Kubernetes event for each event that the block adds to the history."""
        known = len(_history(resource))
        try:
            yield
        finally:
            for event in map(Event.model_validate, _history(resource)[known:]):
                what = event.to or event.kind
                word = "".join(part.capitalize() for part in what.split())
                reason = f"Stage{word[:-1]}Percent" if word.endswith("%") else word
                harm = what in ("kill", "rolled back")
                words = f"{in_words(event)}{_left_out(resource, event)}"
                self._api.write_event(resource.found, reason, words, warning=harm)

    def _say(self, resource: ExperimentResource, fields: Mapping[str, Any], *said: status.Condition) -> None:
        before = conditions = resource.status.get("conditions") or ()
        for one in said:
            conditions = status.with_condition(conditions, one, resource.generation, self._clock())
        resource.write({**fields, "observedGeneration": resource.generation, "conditions": conditions})
        known = {(one["type"], one["reason"], one["message"]) for one in before}
        for one in said:
            if one.reason in _TOLD and (one.type, one.reason, one.message) not in known:
                self._api.write_event(resource.found, one.reason, one.message, warning=True)


def _guarded(act: Callable[[str], None], name: str) -> None:
    """Call `act`, and only log its errors, so that the other experiments are still handled."""
    try:
        act(name)
    except Exception:
        log.exception("%s could not be handled; it will be retried", name)


def _left_out(resource: ExperimentResource, event: Event) -> str:
    serving = resource.last_in_force()
    if event.fixed is None or serving is None or serving.ramp is None:
        return ""
    passed = stages_before(serving.ramp, event.to)
    return f" (skips {', '.join(passed)}: no challenger was watched there)" if passed else ""


def _history(resource: ExperimentResource | None) -> Sequence[Mapping[str, Any]]:
    return () if resource is None else resource.status.get("history") or ()


def _progress(stands: State, step: Move | Hold, findings: Findings, needed: Sequence[Requirement]) -> status.Condition:
    if stands.phase in OVER:
        return status.Condition("Progressing", "False", IS_OVER(phase=stands.phase))
    if isinstance(step, Move):
        return status.Condition("Progressing", "True", messages.MOVED(to=step.to, reason=step.reason))
    evidence, newest = findings.evidence, findings.newest
    split = evidence is None or evidence.token != "srm"
    by_itself = split and not any(one.kind in FAULTS for one in needed if not one.met)
    known = ""
    if newest is not None:
        # The age of the newest decision would change the status every minute.
        late = ", and none has arrived for a long time" if newest["silence"] else ""
        known = f" (the newest decision in the log is from {newest['at'][:16].replace('T', ' ')} UTC{late})"
    words = messages.WAITING(reasons="; ".join(step.reasons), newest=known)
    return status.Condition("Progressing", "True" if by_itself else "False", words)


def _still_refused(resource: ExperimentResource) -> Message | None:
    for one in resource.status.get("conditions") or ():
        refused = (one["type"], one["reason"]) == ("Accepted", "Refused")
        if refused and one.get("observedGeneration") == resource.generation:
            return messages.REFUSED(fault=one["message"])
    return None
