"""The ConfigMap that routers read: what is in force, and marks of the object that it follows from.

Its name is fixed, and people may edit it: in a hurry, or while there is no operator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import yaml

from mtorl.experiment.experiment import Experiment, ExperimentError
from pipelines.experiments.api import GROUP, Api, Object

IN_FORCE = "experiment.yaml"
"""Key of what is in force, as routers read it."""
OF_OBJECT = f"{GROUP}/experiment"
"""Annotation: which object it follows from."""
WRITTEN = f"{GROUP}/written"
"""Annotation: digest of what the operator wrote."""
OFF_BY_HAND = f"{GROUP}/switched-off-at-generation"
"""Annotation: somebody switched it off here, and the object has not been changed since."""


def owner_of(config_map: Object | None) -> str | None:
    """Name of the object that a ConfigMap follows from.

    Somebody may have replaced it as a whole, with `kubectl replace`: then it is the name of its experiment.
    """
    if config_map is None:
        return None
    if OF_OBJECT in (marks := marks_of(config_map)):
        return marks[OF_OBJECT]
    serving = held_by(config_map)
    return None if serving is None else serving.name


def marks_of(config_map: Object) -> dict[str, str]:
    """Its annotations."""
    return dict(config_map["metadata"].get("annotations") or {})


def held_by(config_map: Object) -> Experiment | None:
    """The experiment in a ConfigMap; None: it can't be read."""
    try:
        return Experiment.from_yaml(config_map["data"][IN_FORCE])
    except (ExperimentError, KeyError):
        return None


def is_edited(config_map: Object) -> bool:
    """Whether its content is not what the operator wrote."""
    return marks_of(config_map).get(WRITTEN) != _digest(config_map["data"][IN_FORCE])


def hand_over(
    api: Api, before: Object | None, owner: str, experiment: Experiment, marks: Mapping[str, str] | None = None
) -> Object:
    """Write what is in force, unless it is there; returns the ConfigMap as it is then.

    Args:
        api: Of the API server.
        before: The ConfigMap as it was read; None: there was none.
        owner: Name of the object that it follows from.
        experiment: What is in force.
        marks: Further annotations.

    Raises:
        Conflict: Somebody has written it since.
    """
    content = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    found = before or {"metadata": {}}
    metadata, data = found["metadata"], found.get("data") or {}
    others = {name: text for name, text in marks_of(found).items() if name != OFF_BY_HAND}
    annotations = {**others, OF_OBJECT: owner, WRITTEN: _digest(content), **(marks or {})}
    if data.get(IN_FORCE) == content and metadata.get("annotations") == annotations:
        return found
    return api.put_in_force({"metadata": {**metadata, "annotations": annotations}, "data": {**data, IN_FORCE: content}})


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def end_orphan(api: Api) -> str | None:
    """Give everybody the incumbent if the object of what is in force was deleted; returns its name if it was so.

    A promoted challenger is the incumbent, and stays it.

    Raises:
        Conflict: Somebody writes what is in force.
    """
    config_map = api.in_force()
    if config_map is None or OF_OBJECT not in (marks := marks_of(config_map)):
        return None  # it never was an object, as far as is known
    owner, serving = marks[OF_OBJECT], held_by(config_map)
    if serving is None or not serving.enabled or api.experiment(owner) is not None:
        return None
    hand_over(api, config_map, owner, serving.replace(enabled=False))
    return owner
