"""The ConfigMap that routers read: what is in force, an experiment a key, and marks of what the operator wrote.

    entries(config_map)["spring"].experiment          # of the key spring.yaml
    hand_over(api, config_map, "spring", experiment)  # writes it, on condition that nobody else has written meanwhile

Its name is fixed, and people may edit it: in a hurry, or while there is no operator.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from functools import lru_cache
from typing import Any, NamedTuple

import yaml

from mtorl.experiment.experiment import Experiment, ExperimentError
from pipelines.experiments.api import GROUP, Api
from serving.kubernetes_api import Object

SUFFIX = ".yaml"
"""Of the keys that routers read."""
WRITTEN = f"{GROUP}/written"
"""Annotation: digest of what the operator wrote, by key."""


class Entry(NamedTuple):
    """One experiment in a ConfigMap."""

    key: str
    text: str
    experiment: Experiment | None
    """None: it can't be read."""
    edited: bool
    """Whether it is not what the operator wrote."""
    copies: tuple[str, ...]
    """Further keys with an experiment of that name, of which somebody has made a copy."""


def entries(config_map: Object | None) -> dict[str, Entry]:
    """What is in force, by the name of the object that it follows from.

    A key that the operator did not write is an experiment that people look after, perhaps of an object to come: it has
    the name that it says. One that it wrote and that is gone can't be read.
    """
    found: dict[str, Entry] = {}
    if config_map is None:
        return found
    written = _written(config_map)
    data = config_map.get("data") or {}
    for key in sorted({*data, *written}, key=lambda key: (key not in written, key)):
        if not key.endswith(SUFFIX):
            continue
        text = data.get(key, "")
        experiment, owner = _read(text), key.removesuffix(SUFFIX)
        if key not in written and experiment is not None:
            owner = experiment.name
        if owner in found:
            found[owner] = found[owner]._replace(copies=(*found[owner].copies, key))
            continue
        found[owner] = Entry(key, text, experiment, written.get(key) != _digest(text), ())
    return found


@lru_cache(maxsize=512)
def _read(text: str) -> Experiment | None:
    """The experiment in a text; None: it can't be read. Texts hardly ever change, and are looked at each second."""
    try:
        return Experiment.from_yaml(text)
    except ExperimentError:
        return None


def hand_over(
    api: Api,
    before: Object | None,
    owner: str,
    experiment: Experiment,
    instead_of: Collection[str] = (),
) -> Object:
    """Write what is in force, unless it is there; returns the ConfigMap as it is then.

    Args:
        api: Of the API server.
        before: The ConfigMap as it was read; None: there was none.
        owner: Name of the object that it follows from.
        experiment: What is in force.
        instead_of: Owners of what it takes the place of.

    Raises:
        Conflict: Somebody has written it since.
    """
    content = yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    found = before or {"metadata": {}}
    known, key = entries(found), owner + SUFFIX
    gone = {one for name in (owner, *instead_of) if name in known for one in (known[name].key, *known[name].copies)}
    gone -= {key}
    data = {name: text for name, text in (found.get("data") or {}).items() if name not in gone} | {key: content}
    written = {name: digest for name, digest in _written(found).items() if name not in gone}
    marks = {WRITTEN: json.dumps({**written, key: _digest(content)})}
    metadata = found["metadata"]
    annotations = {**(metadata.get("annotations") or {}), **marks}
    if found.get("data") == data and metadata.get("annotations") == annotations:
        return found
    return api.put_in_force({"metadata": {**metadata, "annotations": annotations}, "data": data})


def end_orphans(api: Api) -> list[str]:
    """Give everybody the incumbent where the object of what is in force was deleted; returns whose that were.

    A promoted challenger is the incumbent, and stays it. What never was an object, as far as is known, goes on.

    Raises:
        Conflict: Somebody writes what is in force.
    """
    config_map, ended = api.in_force(), []
    written = {} if config_map is None else _written(config_map)
    for owner, entry in entries(config_map).items():
        serving = entry.experiment
        if owner + SUFFIX not in written or serving is None or not serving.enabled or api.experiment(owner) is not None:
            continue
        config_map = hand_over(api, config_map, owner, serving.replace(enabled=False))
        ended.append(owner)
    return ended


def _written(config_map: Object) -> dict[str, Any]:
    """What the annotation says; after an edit by hand, perhaps nothing."""
    try:
        found = json.loads((config_map["metadata"].get("annotations") or {}).get(WRITTEN, "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]
