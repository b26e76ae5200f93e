"""Tests that a published version is registered in Kubeflow's registry once, and a fault there is harmless."""

import socket
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import model_registry
import pytest

import serving.versions.kubeflow_model_registry as kubeflow_model_registry
from mtorl.artifact.lineage import Lineage
from serving.versions.kubeflow_model_registry import announce
from tests.serving.small_versions import digest, lineage, version

NAME, VERSION = "mtorl-small-challenger", digest(1)[:12]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Any:
    client = create_autospec(model_registry.ModelRegistry)
    client.return_value.get_model_version.return_value = None
    monkeypatch.setattr(model_registry, "ModelRegistry", client)
    monkeypatch.setenv("MTORL_MODEL_REGISTRY", "http://registry")
    monkeypatch.setenv("MTORL_MODEL_REGISTRY_TOKEN", "s3cret")
    return client


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return tmp_path / "registry" / version(tmp_path / "registry", 1, known=lineage(1, parent=0))


@pytest.mark.parametrize("claim", ["", "mtorl-data"])
def test_a_version_is_registered_once_with_its_lineage(
    client: Any, published: Path, monkeypatch: pytest.MonkeyPatch, claim: str
) -> None:
    monkeypatch.setenv("MTORL_CLAIM", claim)
    registry = client.return_value
    assert announce(published).endswith(f"registered {NAME} {VERSION}")
    assert client.call_args.args == ("http://registry",) and client.call_args.kwargs["user_token"] == "s3cret"
    (name, uri), given = registry.register_model.call_args
    where = f"pvc://{claim}/registry/challenger/{VERSION}" if claim else published.as_uri()
    assert (name, uri, given["version"], given["model_format_name"]) == (NAME, where, VERSION, "mtorl")
    properties = given["metadata"]
    assert (properties["digest"], properties["gate"], properties["lift_low"]) == (digest(1), "promote", 0.05)
    assert properties["metric_reward_auc"] == 0.7
    assert Lineage.model_validate_json(properties["lineage"]) == Lineage.read(published)
    registry.get_model_version.return_value = object()
    assert announce(published).endswith(f"{NAME} {VERSION} is registered already")
    assert registry.register_model.call_count == 1
    registry.get_model_version.assert_called_with(NAME, VERSION)


def test_a_silent_registry_times_out(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubeflow_model_registry, "_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MTORL_MODEL_REGISTRY", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "TimeoutError" in announce(published)
