"""The model registry: a folder for each approved version, which is written once and served from there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from mtorl.runtime.files import replacing


def publish(artifact: str, model_store: str, registry: str) -> str:
    """Copy a challenger and its .mar to `<registry>/challenger/<version>`.

    The layout below a version is what the ServingRuntime mounts at /mnt/models: ``model-store/*.mar`` beside the
    artifact. A version that is already there is left as it is, so publishing twice is harmless.

    Args:
        artifact: Folder of the artifact.
        model_store: Folder with challenger.mar.
        registry: Root of the registry.

    Returns:
        The version's folder.
    """
    version = json.loads((Path(artifact) / "model.json").read_text())["version"]
    target = Path(registry) / "challenger" / version
    if target.exists():
        return str(target)
    with replacing(target) as unfinished:
        shutil.copytree(artifact, unfinished / "artifact")
        (unfinished / "model-store").mkdir()
        shutil.copy2(Path(model_store) / "challenger.mar", unfinished / "model-store")
    return str(target)
