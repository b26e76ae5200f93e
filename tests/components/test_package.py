"""Artifacts to archives for TorchServe."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from kfp.dsl import Artifact

pytestmark = pytest.mark.integration


def test_each_archive_holds_its_artifact(model_store: Artifact, challenger: Artifact, incumbent: Artifact) -> None:
    for name, artifact in (("challenger", challenger), ("incumbent", incumbent)):
        with zipfile.ZipFile(Path(model_store.path) / f"{name}.mar") as archive:
            assert archive.read("artifact/model.json") == (Path(artifact.path) / "model.json").read_bytes()
