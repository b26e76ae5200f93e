"""The model registry: a folder for each published version, which is written once and served from there.

    REGISTRY/registry.json                       whether its models are of simulated data
    REGISTRY/ARM/VERSION/artifact/               the artifact
    REGISTRY/ARM/VERSION/model-store/ARM.mar     what TorchServe loads

A version is there completely or not at all, and its files can't be written any more. Model servers mount the registry
and serve the version that they are told to, so a roll-out, a promotion and a roll-back only name another version.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

from mtorl.artifact.artifact import load
from mtorl.runtime.files import replacing

FIRST = "first"
"""The version that a first installation publishes of each arm: its name is known before there is a model."""

_KIND = "registry.json"


class RegistryError(RuntimeError):
    """A model can't be published; the message says why and what to do."""


def publish(artifact: Path, archive: Path, registry: Path, arm: str, version: str = "") -> Path:
    """Copy an artifact and its archive to their place in the registry.

    A version that is there is left as it is, so publishing twice is harmless. What is incomplete is replaced.

    Args:
        artifact: Folder of the artifact.
        archive: The .mar file that was made of it.
        registry: Root of the registry.
        arm: Which arm the model is for.
        version: Name of the version; by default the artifact's own, which its content determines.

    Returns:
        The version's folder.

    Raises:
        RegistryError: The version is there with another model, or the registry is for models of other data.
        ArtifactError: There is no artifact, or it is damaged.
    """
    model = load(artifact).model
    target = registry / arm / (version or str(model["version"]))
    _check_kind(registry, bool(model.get("simulated", False)))
    published = published_digest(target)
    if published == model["digest"]:
        return target
    if published is not None:
        raise RegistryError(f"{target}: another model is published as this version, and a version is never changed")
    with replacing(target) as unfinished:
        shutil.copytree(artifact, unfinished / "artifact")
        (unfinished / "model-store").mkdir()
        shutil.copyfile(archive, unfinished / "model-store" / f"{arm}.mar")
        _make_read_only(unfinished)
    return target


def published_digest(folder: Path) -> str | None:
    """The digest of the model that a version's folder holds; None if it isn't there, or not completely.

    Args:
        folder: `REGISTRY/ARM/VERSION`.
    """
    try:
        model = json.loads((folder / "artifact" / "model.json").read_text())
        # Names and not checksums, nor the schema's version: what an older release has published stays as it is.
        complete = all((folder / "artifact" / name).is_file() for name in model["files"])
        return str(model["digest"]) if complete and len(list(folder.glob("model-store/*.mar"))) == 1 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def folder_of(registry: Path, digest: str) -> Path | None:
    """The artifact's folder of the published model with a digest, whichever arm and version; None if there is none."""
    for path in sorted(registry.glob("*/*/artifact/model.json")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            if json.loads(path.read_text())["digest"] == digest:
                return path.parent
    return None


def _check_kind(registry: Path, simulated: bool) -> None:
    """The first model decides what a registry holds: a simulated market's policy must never be served to people."""
    registry.mkdir(parents=True, exist_ok=True)
    path = registry / _KIND
    with contextlib.suppress(FileExistsError), path.open("x") as file:
        json.dump({"simulated": simulated}, file)
    kind: dict[str, Any] = json.loads(path.read_text())
    if kind["simulated"] != simulated:
        ours, theirs = ("simulated data", "a real log") if simulated else ("a real log", "simulated data")
        raise RegistryError(
            f"{registry} holds models of {theirs}, and this model is of {ours}: publish it to another registry"
        )


def _make_read_only(folder: Path) -> None:
    """Take the right to write from files, and from others the right to read; whoever may delete folders still can."""
    for path in folder.rglob("*"):
        path.chmod(0o750 if path.is_dir() else 0o440)
    folder.chmod(0o750)
