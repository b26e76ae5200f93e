"""Archives are asked for a decision before they are published."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest
from kfp.dsl import Artifact

from components.smoke_test.component import smoke_test
from tests.components.artifacts import Output

pytestmark = pytest.mark.integration


def test_both_models_answer(model_store: Artifact, challenger: Artifact) -> None:
    said = smoke_test.python_func(model_store)
    assert "incumbent: " in said and f"digest {challenger.metadata['digest'][:12]}" in said


def test_an_archive_with_a_damaged_graph_is_refused(model_store: Artifact, output: Output) -> None:
    damaged = output(Artifact, "model_store")
    shutil.copytree(model_store.path, damaged.path)
    archive = Path(damaged.path) / "challenger.mar"
    with zipfile.ZipFile(archive) as content:
        files = {name: content.read(name) for name in content.namelist()}
    (graph,) = [name for name in files if name.endswith(".onnx")]
    with zipfile.ZipFile(archive, "w") as content:
        for name, data in files.items():
            content.writestr(name, data[: len(data) // 2] if name == graph else data)
    with pytest.raises(SystemExit, match=r"challenger\.mar: its model can't be loaded"):
        smoke_test.python_func(damaged)
