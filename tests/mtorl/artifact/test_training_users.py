"""Which models were trained on whom: of copies one, and no model that only has somebody's number."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mtorl.artifact.artifact import ArtifactError
from mtorl.artifact.training_users import TrainedOn, is_artifact, trained_on
from mtorl.log.splits import fingerprints


def artifact(folder: Path, digest: str, users: list[str]) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps({"name": "challenger", "version": digest[:3], "digest": digest}))
    np.save(folder / "training_users.npy", fingerprints(users))
    return folder


def test_each_model_is_said_once_with_all_its_places(tmp_path: Path) -> None:
    first = artifact(tmp_path / "a", "123456", ["u1", "u2"])
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    old = artifact(tmp_path / "old", "654321", ["u2"])
    assert trained_on([first, copy, old], ["u1", "u3", "u1"]) == [
        TrainedOn("challenger", "123", ("u1",), (first, copy))
    ]
    assert trained_on([first, old], ["u2"])[1] == TrainedOn("challenger", "654", ("u2",), (old,))
    assert trained_on([first, old], ["u4"]) == []
    assert is_artifact(first) and not is_artifact(tmp_path)


def test_an_artifact_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = artifact(tmp_path / "a", "123456", ["u1"])
    (folder / "training_users.npy").write_bytes(b"")
    with pytest.raises(ArtifactError, match=str(folder)):
        trained_on([folder], ["u1"])
    (folder / "model.json").write_text("{")
    with pytest.raises(ArtifactError, match=str(folder)):
        trained_on([folder], ["u1"])
