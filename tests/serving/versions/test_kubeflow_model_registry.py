"""A published version is registered once with its lineage, and a registry that fails stops no publication."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import serving.versions.kubeflow_model_registry as kubeflow_model_registry
from mtorl.artifact.lineage import Lineage
from serving.versions.kubeflow_model_registry import announce
from tests.serving.fake_model_registry import ModelRegistry, serving
from tests.serving.small_versions import digest, lineage, version

NAME, VERSION = "mtorl-small-challenger", digest(1)[:12]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelRegistry]:
    monkeypatch.delenv("KF_PIPELINES_SA_TOKEN_PATH", raising=False)
    with serving() as running:
        monkeypatch.setenv("MTORL_MODEL_REGISTRY", running.url)
        monkeypatch.setenv("MTORL_MODEL_REGISTRY_TOKEN", "s3cret")
        yield running


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return tmp_path / "registry" / version(tmp_path / "registry", 1, known=lineage(1, parent=0))


@pytest.mark.parametrize("claim", ["", "mtorl-data"])
def test_a_version_is_registered_once_with_its_lineage(
    registry: ModelRegistry, published: Path, monkeypatch: pytest.MonkeyPatch, claim: str
) -> None:
    monkeypatch.setenv("MTORL_CLAIM", claim)
    assert announce(published) == f"Kubeflow Model Registry: registered {NAME} {VERSION}"
    assert announce(published).endswith(f"{NAME} {VERSION} is registered already")
    kept = (registry.models, registry.versions, registry.artifacts)
    (model,), (registered,), (artifact,) = (list(things.values()) for things in kept)
    assert (model["name"], registered["name"], artifact["modelFormatName"]) == (NAME, VERSION, "mtorl")
    where = f"pvc://{claim}/registry/challenger/{VERSION}" if claim else published.as_uri()
    assert artifact["uri"] == where
    properties = {name: next(value for key, value in typed.items() if key.endswith("_value"))
                  for name, typed in registered["customProperties"].items()}  # fmt: skip
    assert (properties["digest"], properties["gate"], properties["lift_low"]) == (digest(1), "promote", 0.05)
    assert properties["metric_reward_auc"] == 0.7
    assert Lineage.model_validate_json(properties["lineage"]) == Lineage.read(published)
    assert set(registry.authorizations) == {"Bearer s3cret"}


def test_without_a_url_nothing_is_registered(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MTORL_MODEL_REGISTRY", raising=False)
    assert announce(published).startswith("no Kubeflow Model Registry is configured")


def test_a_silent_registry_is_waited_for_for_seconds(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubeflow_model_registry, "_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MTORL_MODEL_REGISTRY", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "TimeoutError" in announce(published)
