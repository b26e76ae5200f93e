"""The place that approved models are served from: one folder per version, written once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path


def publish(artifact: str, model_store: str, registry: str) -> str:
    """Copy a challenger and its .mar to ``<registry>/challenger/<version>``.

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
    half_written = target.with_name(f".{version}.{os.getpid()}")
    shutil.rmtree(half_written, ignore_errors=True)
    shutil.copytree(artifact, half_written / "artifact")
    (half_written / "model-store").mkdir()
    shutil.copy2(Path(model_store) / "challenger.mar", half_written / "model-store")
    half_written.rename(target)
    return str(target)
