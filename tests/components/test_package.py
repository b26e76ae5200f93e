"""Artifacts to archives for TorchServe."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from kfp.dsl import Artifact, Model

from components.package.component import package
from tests.components.artifacts import Output

pytestmark = pytest.mark.integration


def test_each_archive_holds_its_artifact(model_store: Artifact, challenger: Artifact, incumbent: Artifact) -> None:
    for name, artifact in (("challenger", challenger), ("incumbent", incumbent)):
        with zipfile.ZipFile(Path(model_store.path) / f"{name}.mar") as archive:
            assert archive.read("artifact/model.json") == (Path(artifact.path) / "model.json").read_bytes()


def test_an_incumbent_without_an_artifact_has_no_archive(challenger: Artifact, output: Output, tmp_path: Path) -> None:
    (tmp_path / "logged_incumbent.json").write_text('{"policy": "baseline"}')
    made = output(Artifact, "model_store")
    package.python_func(challenger, Model(uri=str(tmp_path)), made)
    assert [path.name for path in Path(made.path).iterdir()] == ["challenger.mar"]
