"""The step hands a published version to the roll-out, and ends in words if it is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl import Artifact

import serving.deployment
import serving.inference_services
import serving.kubernetes_api
from components.deploy.component import deploy
from mtorl.artifact.artifact import load
from mtorl.artifact.lineage import lineage_of
from serving.deployment import DeployError, Patience
from serving.registry import publish


@pytest.mark.integration
def test_a_published_version_is_rolled_out(
    challenger: Artifact, model_store: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lineage = lineage_of(load(challenger.path).model, "simulator", datetime(2026, 1, 1, tzinfo=UTC))
    folder = publish(Path(challenger.path), Path(model_store.path) / "challenger.mar", tmp_path, "challenger", lineage)
    monkeypatch.setattr(serving.kubernetes_api, "KubernetesApi", lambda retries: f"an API, {retries} retries")
    monkeypatch.setattr(serving.inference_services, "InferenceServices", lambda api: f"servers of {api}")
    asked: list[Any] = []

    def rolled_out(servers: Any, arm: str, version: str, artifact: Any, experiments: Any, patience: Patience) -> str:
        asked.append((servers, arm, version, artifact.digest, experiments, patience.seconds))
        return "it serves"

    monkeypatch.setattr(serving.deployment, "deploy", rolled_out)
    assert deploy.python_func(str(folder), str(tmp_path / "none"), 60) == "it serves"
    digest = challenger.metadata["digest"]
    servers = "servers of an API, 3 retries"
    assert asked == [(servers, "challenger", f"challenger/{folder.name}", digest, [], 60)]

    def refused(*_: Any) -> str:
        raise DeployError("it does not serve")

    monkeypatch.setattr(serving.deployment, "deploy", refused)
    with pytest.raises(SystemExit, match="mtorl: it does not serve"):
        deploy.python_func(str(folder), str(tmp_path / "none"), 60)
