"""The model registry: a folder tree with all published versions of models, from which model servers load them.

    REGISTRY/ARM/VERSION/artifact/               the artifact
    REGISTRY/ARM/VERSION/model-store/ARM.mar     the archive that TorchServe loads
    REGISTRY/ARM/VERSION/lineage.json            its data, code and evaluation (`mtorl.artifact.lineage`)

A version is published atomically and never changes.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtorl.artifact.artifact import load
from mtorl.artifact.lineage import Lineage, LineageError
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import DATASET_FILE
from mtorl.runtime.errors import InputError
from mtorl.runtime.files import replacing, sync
from serving import messages

FIRST = "first"
"""Name of the version that a first installation publishes for each arm. The name is fixed, so that the servers'
manifests can refer to it before it exists."""
ARMS = ("incumbent", "challenger")  # with a first version


class RegistryError(InputError, RuntimeError):
    """Raised if a registry can't be read or changed."""


def publish(artifact: Path, archive: Path, registry: Path, arm: str, lineage: Lineage, version: str = "") -> Path:
    """Copy an artifact and its .mar file into the registry; returns the folder `registry/arm/version`.

    A version that is already published with this model is not changed. By default, `version` is the artifact's own.

    Raises:
        RegistryError: The version has another model, `lineage` belongs to another model, or the registry is for another
            kind of data.
        ArtifactError: The artifact is missing or damaged.
    """
    model = load(artifact).model
    if lineage.digest != model["digest"]:
        raise RegistryError(messages.OTHER_LINEAGE(artifact=artifact, digest=lineage.digest[:12]))
    target = registry / arm / (version or str(model["version"]))
    check_kind(registry, bool(model.get("simulated", False)))
    published = published_digest(target)
    if published == model["digest"]:
        return target
    if published is not None:
        raise RegistryError(messages.VERSION_TAKEN(version=target))
    with replacing(target) as unfinished:
        shutil.copytree(artifact, unfinished / "artifact")
        (unfinished / "model-store").mkdir()
        shutil.copyfile(archive, unfinished / "model-store" / f"{arm}.mar")
        lineage.write(unfinished)
        _make_read_only(unfinished)
    return target


def published_digest(folder: Path) -> str | None:
    """Return the digest of a published model; None if the version is missing or incomplete."""
    try:
        model = json.loads((folder / "artifact" / "model.json").read_text())
        files = [folder / "artifact" / name for name in model["files"]]
        files.append(folder / "model-store" / f"{folder.parent.name}.mar")
        # A model server computes the checksums, which takes long.
        return str(model["digest"]) if all(file.stat().st_size for file in files) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_kind(registry: Path, simulated: bool) -> None:
    """Raise RegistryError if a model is for simulated data and the registry is not, or vice versa.

    Otherwise, a model that was trained on a simulation might serve real users.
    """
    for _, model in published_models(registry):
        if bool(model.get("simulated", False)) != simulated:
            ours, theirs = ("simulated data", "a real log") if simulated else ("a real log", "simulated data")
            raise RegistryError(messages.OTHER_KIND(registry=registry, theirs=theirs, ours=ours))


def check_first(registry: Path, spec: DatasetSpec) -> None:
    """Raise RegistryError if the versions named `first` are for another data set."""
    check_kind(registry, spec.simulated)
    for description in sorted(registry.glob(f"*/{FIRST}/artifact/{DATASET_FILE}")):
        if (name := DatasetSpec.load(description).name) != spec.name:
            data = {"theirs": f"the data set {name!r}", "ours": f"the data set {spec.name!r}"}
            raise RegistryError(messages.OTHER_KIND(registry=registry, **data))


def folder_of(registry: Path, digest: str | None) -> Path | None:
    """Return the artifact folder of the model with a digest, or of the newest model, if any."""
    if digest is None:
        return max(_by_time(registry), default=(None, None))[1]
    return next((folder for folder, model in published_models(registry) if model.get("digest") == digest), None)


def newest(registry: Path) -> datetime | None:
    """Return when the newest model was trained, except models that need an experiment."""
    return max((created for created, folder in _by_time(registry) if not _needs_experiment(folder)), default=None)


def _needs_experiment(artifact: Path) -> bool:
    try:
        gate = Lineage.read(artifact.parent).gate
    except LineageError:
        return False
    return gate is not None and gate.decision == "experiment"


def description_of_newest(registry: Path) -> Path:
    """Return the newest model's data set description; raises RegistryError."""
    if (folder := folder_of(registry, None)) is None:
        raise RegistryError(f"{registry} has no model with a data set description: name one (dataset)")
    return folder / DATASET_FILE


def _by_time(registry: Path) -> Iterator[tuple[datetime, Path]]:
    for folder, model in published_models(registry):
        # another release or a person may have written model.json
        with contextlib.suppress(KeyError, TypeError, ValueError):
            yield datetime.fromisoformat(model["created"]).astimezone(UTC), folder


def published_models(registry: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the folder and the model.json of each published artifact."""
    for path in sorted(registry.glob("[!.]*/[!.]*/artifact/model.json")):
        with contextlib.suppress(OSError, ValueError):
            yield path.parent, json.loads(path.read_text())


def _make_read_only(folder: Path) -> None:
    """Make all files read-only, hide them from other users, and sync them to disk."""
    for path in folder.rglob("*"):
        path.chmod(0o750 if path.is_dir() else 0o440)
        sync(path)
    folder.chmod(0o750)
