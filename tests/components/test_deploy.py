"""The step hands a published version to the roll-out, and ends in words if it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kfp.dsl import Artifact

import serving.deployment
import serving.inference_services
from components.deploy import deploy
from serving.deployment import DeployError
from serving.registry import publish


@pytest.mark.integration
def test_a_published_version_is_rolled_out(
    challenger: Artifact, model_store: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = publish(Path(challenger.path), Path(model_store.path) / "challenger.mar", tmp_path, "challenger")
    monkeypatch.setattr(serving.inference_services, "InferenceServices", lambda: "the servers")
    asked: list[Any] = []

    def rolled_out(servers: Any, arm: str, version: str, artifact: Any, experiments: Any, seconds: float) -> str:
        asked.append((servers, arm, version, artifact.digest, experiments, seconds))
        return "it serves"

    monkeypatch.setattr(serving.deployment, "deploy", rolled_out)
    assert deploy.python_func(str(folder), str(tmp_path / "none"), 60) == "it serves"
    assert asked == [("the servers", "challenger", f"challenger/{folder.name}", challenger.metadata["digest"], [], 60)]

    def refused(*_: Any) -> str:
        raise DeployError("it does not serve")

    monkeypatch.setattr(serving.deployment, "deploy", refused)
    with pytest.raises(SystemExit, match="mtorl: it does not serve"):
        deploy.python_func(str(folder), str(tmp_path / "none"), 60)
