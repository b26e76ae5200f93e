"""The ConfigMap that routers read: an experiment in force for each key, and digests of what the operator wrote.

    entries(api, config_map)["spring"].experiment     # of the key spring.yaml
    write(api, config_map, {"spring": experiment})    # on condition that it has not changed meanwhile
    switch_off(api, config_map, "spring")             # the key spring.off, with any spring.yaml

The kill switch is a key of its own: nothing else is read, validated or written for it, and it needs no experiment that
can be read. The operator alone writes the ConfigMap. In an emergency without an operator, a person may write that key.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mtorl.experiment.experiment import Experiment, ExperimentError
from pipelines.experiments.cluster_api import GROUP, ClusterApi
from serving.kubernetes_api import Object

SUFFIX = ".yaml"
"""Of the keys that routers read."""
OFF = ".off"
"""Of the keys that switch an experiment off."""
_SWITCHED_OFF = "switched off; the operator wrote this"
WRITTEN = f"{GROUP}/written"
"""Annotation: digest of what the operator wrote, by key."""


class Entry(NamedTuple):
    """One experiment in a ConfigMap."""

    text: str
    experiment: Experiment | None
    """None: it can't be read."""
    off: str | None
    """Content of the key that switches it off; None: there is none."""
    edited: bool
    """Whether it is not what the operator wrote."""

    @property
    def switched_off(self) -> bool:
        """Whether its kill switch is on, in the key of its own or in the experiment."""
        return self.off is not None or (self.experiment is not None and not self.experiment.enabled)


def entries(api: ClusterApi, config_map: Object | None) -> dict[str, Entry]:
    """Experiments by the name of their object. A key that the operator wrote and that is gone is unreadable."""
    if config_map is None:
        return {}
    written, data = _written(config_map), config_map.get("data") or {}
    texts = {key: data.get(key, "") for key in sorted({*data, *written}) if key.endswith(SUFFIX)}
    found = {}
    for key, text in texts.items():
        owner = key.removesuffix(SUFFIX)
        off = data.get(owner + OFF)
        digest_of_off = None if off is None else _digest(off)
        edited = (written.get(key), written.get(owner + OFF)) != (_digest(text), digest_of_off)
        experiment: Experiment | None = None
        with contextlib.suppress(ExperimentError):
            experiment = _read(text, api.tables, off is not None)
        found[owner] = Entry(text, experiment, off, edited)
    return found


@lru_cache(maxsize=512)
def _read(text: str, tables: Path | None, off: bool) -> Experiment:
    """The experiment in a text. Cached: texts rarely change, and are read each second."""
    if off:
        return _read(text, tables, False).replace(enabled=False)
    return Experiment.from_yaml(text, tables)


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
        else:
            data[key] = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        if experiment is None or experiment.enabled:  # else it says so itself
            data.pop(owner + OFF, None)
        for one in (key, owner + OFF):
            written.pop(one, None)
            if one in data:
                written[one] = _digest(data[one])
    return _put(api, found, data, written)


def switch_off(api: ClusterApi, before: Object | None, owner: str) -> Object | None:
    """Switch an experiment off, unless it is; returns the new ConfigMap. Conflict: it has changed since `before`."""
    data = dict((before or {}).get("data") or {})
    if before is None or owner + SUFFIX not in data or owner + OFF in data:
        return before
    data[owner + OFF] = _SWITCHED_OFF
    return _put(api, before, data, {**_written(before), owner + OFF: _digest(_SWITCHED_OFF)})


def _put(api: ClusterApi, found: Object, data: Mapping[str, str], written: Mapping[str, str]) -> Object:
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
    for owner, entry in entries(api, config_map).items():
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
