"""The ConfigMap that routers read: an experiment in force for each key, and digests of what the operator wrote.

    entries(config_map)["spring"].experiment          # of the key spring.yaml
    write(api, config_map, {"spring": experiment})    # on condition that it has not changed meanwhile

The operator alone writes it. In an emergency without an operator, a person may edit a key: the kill switch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import yaml

from mtorl.experiment.experiment import Experiment, ExperimentError
from pipelines.experiments.cluster_api import GROUP, ClusterApi
from serving.kubernetes_api import Object

SUFFIX = ".yaml"
"""Of the keys that routers read."""
WRITTEN = f"{GROUP}/written"
"""Annotation: digest of what the operator wrote, by key."""


class Entry(NamedTuple):
    """One experiment in a ConfigMap."""

    text: str
    experiment: Experiment | None
    """None: it can't be read."""
    edited: bool
    """Whether it is not what the operator wrote."""


def entries(config_map: Object | None) -> dict[str, Entry]:
    """Experiments by the name of their object. A key that the operator wrote and that is gone is unreadable."""
    if config_map is None:
        return {}
    written, data = _written(config_map), config_map.get("data") or {}
    texts = {key: data.get(key, "") for key in sorted({*data, *written}) if key.endswith(SUFFIX)}
    return {
        key.removesuffix(SUFFIX): Entry(text, _read(text), written.get(key) != _digest(text))
        for key, text in texts.items()
    }


@lru_cache(maxsize=512)
def _read(text: str) -> Experiment | None:
    """The experiment in a text; None: it can't be read. Cached: texts rarely change, and are read each second."""
    try:
        return Experiment.from_yaml(text)
    except ExperimentError:
        return None


def write(api: ClusterApi, before: Object | None, changes: Mapping[str, Experiment | None]) -> Object:
    """Write what is in force, unless it is there; returns the new ConfigMap. Conflict: it has changed since `before`.

    Args:
        before: The ConfigMap as it was read; None: there was none.
        changes: By the name of the object; None removes its key.
    """
    found = before or {"metadata": {}}
    data, written = dict(found.get("data") or {}), _written(found)
    for owner, experiment in changes.items():
        key = owner + SUFFIX
        if experiment is None:
            data.pop(key, None)
            written.pop(key, None)
        else:
            data[key] = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            written[key] = _digest(data[key])
    metadata = found["metadata"]
    annotations = {**(metadata.get("annotations") or {}), WRITTEN: json.dumps(written)}
    if found.get("data") == data and metadata.get("annotations") == annotations:
        return found
    return api.put_in_force({"metadata": {**metadata, "annotations": annotations}, "data": data})


def end_orphans(api: ClusterApi) -> list[str]:
    """Give all users the incumbent where what is in force has no object; returns the names.

    A promoted challenger is the incumbent, and stays it. A copy under another name is removed.
    """
    config_map = api.in_force()
    changes: dict[str, Experiment | None] = {}
    for owner, entry in entries(config_map).items():
        serving = entry.experiment
        if serving is not None and (serving.enabled or serving.name != owner) and api.experiment(owner) is None:
            changes[owner] = serving.replace(enabled=False) if serving.name == owner else None
    if changes:
        write(api, config_map, changes)
    return list(changes)


def _written(config_map: Object) -> dict[str, Any]:
    """The annotation's content; after an edit by hand, perhaps nothing."""
    try:
        found = json.loads((config_map["metadata"].get("annotations") or {}).get(WRITTEN, "{}"))
    except ValueError:
        return {}
    return dict(found) if isinstance(found, dict) else {}


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]
