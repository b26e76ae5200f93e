"""The models that were trained on a user.

    for model in trained_on(Path("registry"), ["u1"]):
        print(model.name, model.version, model.places)

An artifact has a fingerprint of each user that had a part in its training (`mtorl.log.splits`). It can't be changed:
its digest covers every file. To remove a user from a model, train it again on a log without them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtorl.artifact.artifact import ArtifactError
from mtorl.log.splits import are_among

_MODEL, _USERS = "model.json", "training_users.npy"


@dataclass(frozen=True)
class TrainedOn:
    """A model that some users had a part in."""

    name: str  # of the artifact
    version: str
    users: tuple[str, ...]  # of those in question
    places: tuple[Path, ...]  # folders with a copy of it


def is_artifact(folder: Path) -> bool:
    """Whether a folder is that of an artifact."""
    return (folder / _MODEL).is_file() and (folder / _USERS).is_file()


def trained_on(artifacts: Iterable[Path], user_ids: Iterable[str]) -> list[TrainedOn]:
    """The models that were trained on any of the users; copies of one model count once. Raises ArtifactError."""
    users = sorted(set(user_ids))
    found: dict[str, TrainedOn] = {}
    for folder in artifacts:
        try:
            model = dict(json.loads((folder / _MODEL).read_text(encoding="utf-8")))
            trained_B = are_among(users, np.load(folder / _USERS, allow_pickle=False))
        except (OSError, ValueError, TypeError, EOFError) as error:
            raise ArtifactError(f"{folder}: {_MODEL} or {_USERS} can't be read: {error}") from None
        trained = tuple(user for user, is_one in zip(users, trained_B, strict=True) if is_one)
        if trained:
            digest = str(model.get("digest", folder))
            places = (*(found[digest].places if digest in found else ()), folder)
            found[digest] = TrainedOn(str(model.get("name")), str(model.get("version")), trained, places)
    return list(found.values())
