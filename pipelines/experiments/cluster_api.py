"""Reads and writes Experiment objects and the ConfigMap of active experiments through the Kubernetes API server.

Each kill switch is a separate key of the ConfigMap, so that it works even if the experiment's own key is invalid.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mtorl.experiment.experiment import Experiment, ExperimentError
from serving.kubernetes_api import Conflict, KubernetesApi, Object

GROUP = "mtorl-kubeflow.github.io"
VERSION = "v1alpha1"
KIND = "Experiment"
PLURAL = "experiments"
REASON = "mtorl-kubeflow/reason"
"""Annotation of an experiment with the reason for using the kill switch."""
CONFIG_MAP = "mtorl-experiment"
SUFFIX = ".yaml"
"""Suffix of the ConfigMap keys that contain an experiment file."""
OFF = ".off"
"""Suffix of the ConfigMap keys that switch an experiment off. The key's content does not matter."""
_SWITCHED_OFF = "switched off; the operator wrote this"
_WRITTEN = f"{GROUP}/written"
_SECONDS = (2.0, 3.0)
log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """The content of the ConfigMap's keys about one experiment."""

    text: str
    experiment: Experiment | None
    """The experiment; None if its text can't be read."""
    off: str | None
    """Content of the key that switches the experiment off; None if the ConfigMap has no such key."""
    edited: bool
    """Whether a person has edited a key since the operator wrote it."""

    @property
    def switched_off(self) -> bool:
        """Return whether the kill switch is on."""
        return self.off is not None or (self.experiment is not None and not self.experiment.enabled)


class ClusterApi(KubernetesApi):
    """A client of the Kubernetes API server for the experiments of one namespace."""

    tables: Path | None = Path("/etc/mtorl/budgets")
    """Folder of the budget tables to which experiments refer."""

    def __init__(self, namespace: str) -> None:
        super().__init__(namespace, _SECONDS)

    def experiments(self) -> list[Object]:
        """List all experiments, the oldest first."""
        found = self.list(PLURAL)
        return sorted(found, key=lambda one: (one["metadata"]["creationTimestamp"], one["metadata"]["name"]))

    def experiment(self, name: str) -> Object | None:
        """Read the experiment object with a name; None if there is none."""
        return self.get(PLURAL, name)

    def replace_status(self, found: Mapping[str, Any]) -> Object:
        """Write an experiment's status, and return the new object. Raises Conflict if it was changed meanwhile."""
        return self.replace(PLURAL, found["metadata"]["name"], found, "status")

    def in_force(self) -> Object | None:
        """Read the ConfigMap of active experiments; None if it does not exist yet."""
        return self.get("configmaps", CONFIG_MAP)

    def apply_config_map(self, config_map: Mapping[str, Any]) -> Object:
        """Write the ConfigMap, and return the new one. Raises Conflict if it was changed or created meanwhile."""
        metadata = {**config_map["metadata"], "name": CONFIG_MAP}
        body = {**config_map, "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        if "resourceVersion" in metadata:
            return self.replace("configmaps", CONFIG_MAP, body)
        return self.create("configmaps", body)

    def entries(self, config_map: Object | None) -> dict[str, Entry]:
        """Parse the experiments in the ConfigMap into a dictionary by object name.

        An experiment whose key was removed counts as invalid.
        """
        if config_map is None:
            return {}
        written, data = _written(config_map), config_map.get("data") or {}
        found = {}
        for key in sorted(key for key in {*data, *written} if key.endswith(SUFFIX)):
            owner, text = key.removesuffix(SUFFIX), data.get(key, "")
            off = data.get(owner + OFF)
            digest_of_off = None if off is None else _digest(off)
            edited = (written.get(key), written.get(owner + OFF)) != (_digest(text), digest_of_off)
            experiment: Experiment | None = None
            with contextlib.suppress(ExperimentError):
                experiment = _read(text, self.tables, off is not None)
            found[owner] = Entry(text, experiment, off, edited)
        return found

    def write(self, before: Object | None, changes: Mapping[str, Experiment | None]) -> Object:
        """Write changed experiments into the ConfigMap, and return the new ConfigMap.

        Args:
            before: The ConfigMap as it was read. None means that it does not exist yet.
            changes: New experiments by object name. None removes the experiment.

        Raises:
            Conflict: The ConfigMap has changed since it was read.
        """
        found = before or {"metadata": {}}
        data, written = dict(found.get("data") or {}), _written(found)
        for owner, experiment in changes.items():
            key = owner + SUFFIX
            if experiment is None:
                data.pop(key, None)
            else:
                data[key] = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            if experiment is None or experiment.enabled:
                data.pop(owner + OFF, None)
            for one in (key, owner + OFF):
                written.pop(one, None)
                if one in data:
                    written[one] = _digest(data[one])
        return self._put(found, data, written)

    def switch_off(self, before: Object | None, owner: str) -> Object | None:
        """Switch an experiment off, and return the new ConfigMap. Raises Conflict if it was changed meanwhile."""
        data = dict((before or {}).get("data") or {})
        if before is None or owner + SUFFIX not in data or owner + OFF in data:
            return before
        data[owner + OFF] = _SWITCHED_OFF
        return self._put(before, data, {**_written(before), owner + OFF: _digest(_SWITCHED_OFF)})

    def _put(self, found: Object, data: Mapping[str, str], written: Mapping[str, str]) -> Object:
        metadata = found["metadata"]
        annotations = {**(metadata.get("annotations") or {}), _WRITTEN: json.dumps(written)}
        if found.get("data") == data and metadata.get("annotations") == annotations:
            return found
        return self.apply_config_map({"metadata": {**metadata, "annotations": annotations}, "data": data})

    def end_orphans(self) -> list[str]:
        """Switch off the active experiments whose object was deleted, and return their names."""
        config_map = self.in_force()
        changes: dict[str, Experiment | None] = {}
        for owner, entry in self.entries(config_map).items():
            serving = entry.experiment
            if serving is not None and (serving.enabled or serving.name != owner) and self.experiment(owner) is None:
                changes[owner] = serving.replace(enabled=False) if serving.name == owner else None
        if changes:
            self.write(config_map, changes)
        return list(changes)

    def write_event(self, found: Mapping[str, Any], reason: str, message: str, warning: bool = False) -> None:
        """Write an event for `kubectl describe`. A failure is only logged."""
        metadata = found["metadata"]
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"generateName": f"{metadata['name']}-", "namespace": self.namespace},
            "eventTime": micro_time(),
            "reportingController": f"{GROUP}/operator",
            "reportingInstance": "mtorl-operator",
            "action": reason,
            "reason": reason,
            "type": "Warning" if warning else "Normal",
            "note": message.encode()[:1000].decode(errors="ignore"),
            "regarding": {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": KIND,
                "name": metadata["name"],
                "namespace": self.namespace,
                "uid": metadata["uid"],
            },
        }
        try:
            self.create("events", body)
        except (OSError, Conflict) as error:
            log.warning("an event could not be written: %s", str(error).splitlines()[0])


def micro_time() -> str:
    """Return the current time in Kubernetes' format with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


@lru_cache(maxsize=512)
def _read(text: str, tables: Path | None, off: bool) -> Experiment:
    """Parse an experiment. A cache helps, because the same texts are parsed every second."""
    if off:
        return _read(text, tables, False).replace(enabled=False)
    return Experiment.from_yaml(text, tables)


def _written(config_map: Object) -> dict[str, Any]:
    try:
        found = json.loads((config_map["metadata"].get("annotations") or {}).get(_WRITTEN, "{}"))
    except ValueError:
        return {}
    return dict(found) if isinstance(found, dict) else {}


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]
