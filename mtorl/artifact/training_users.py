"""Which models were trained on a user.

    for model in trained_on(Path("registry"), ["u1"]):
        print(model.name, model.version, model.places)

An artifact has a fingerprint of each user that had a part in its training (`mtorl.log.splits`). It can't be changed:
its digest covers every file. Whoever wants a user out of a model trains it again, on a log without them.
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
    users: tuple[str, ...]  # that it was trained on, of those that were asked for
    places: tuple[Path, ...]  # folders with a copy of it


def is_artifact(folder: Path) -> bool:
    """Whether a folder is that of an artifact."""
    return (folder / _MODEL).is_file() and (folder / _USERS).is_file()


def trained_on(artifacts: Iterable[Path], user_ids: Iterable[str]) -> list[TrainedOn]:
    """The models that were trained on any of some users.

    Args:
        artifacts: Folders of artifacts; copies of one model count once.
        user_ids: Users.

    Raises:
        ArtifactError: A file of an artifact can't be read.
    """
    users = sorted(set(user_ids))
    copies: dict[str, list[Path]] = {}
    for folder in artifacts:
        copies.setdefault(str(_model(folder).get("digest", folder)), []).append(folder)
    found = []
    for places in copies.values():
        folder, model = places[0], _model(places[0])
        try:
            fingerprints = np.load(folder / _USERS, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ArtifactError(f"{folder}: can't be read: {error}") from None
        trained = tuple(user for user, is_one in zip(users, are_among(users, fingerprints), strict=True) if is_one)
        if trained:
            found.append(TrainedOn(str(model.get("name")), str(model.get("version")), trained, tuple(places)))
    return found


def _model(folder: Path) -> dict[str, object]:
    try:
        return dict(json.loads((folder / _MODEL).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(f"{folder / _MODEL}: can't be read: {error}") from None
