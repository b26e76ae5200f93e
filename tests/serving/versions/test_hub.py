"""Kubeflow's model registry is told of a version once, whole, and is never in the way of a publication."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import serving.versions.hub as hub_module
from mtorl.artifact.lineage import Lineage
from serving.versions.hub import tell
from tests.serving.fake_hub import Hub, serving
from tests.serving.small_versions import digest, lineage, version

NAME, VERSION = "mtorl-small-challenger", digest(1)[:12]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("MTORL_MODEL_REGISTRY", "MTORL_MODEL_REGISTRY_TOKEN", "KF_PIPELINES_SA_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with serving() as running:
        yield running


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return tmp_path / "registry" / version(tmp_path / "registry", 1, known=lineage(1, parent=0))


def test_a_version_is_registered_with_its_lineage(hub: Hub, published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTORL_CLAIM", "mtorl-data")
    assert tell(published, hub.url) == f"told the Kubeflow Model Registry: {NAME} {VERSION}"
    (model,), (registered,), (artifact,) = (list(t.values()) for t in (hub.models, hub.versions, hub.artifacts))
    assert (model["name"], registered["name"]) == (NAME, VERSION)
    assert artifact["uri"] == f"pvc://mtorl-data/registry/challenger/{VERSION}"
    assert artifact["modelFormatName"] == "mtorl"
    told = {name: next(value for key, value in typed.items() if key.endswith("_value"))
            for name, typed in registered["customProperties"].items()}  # fmt: skip
    assert told["digest"] == digest(1) and told["compared_with"] == digest(0)
    assert (told["gate"], told["lift_low"], told["metric_reward_auc"]) == ("promote", 0.05, 0.7)
    assert Lineage.model_validate_json(told["lineage"]) == Lineage.read(published)


def test_telling_it_again_changes_nothing(hub: Hub, published: Path) -> None:
    tell(published, hub.url)
    before = (dict(hub.models), dict(hub.versions), dict(hub.artifacts))
    assert tell(published, hub.url) == f"the Kubeflow Model Registry knows {NAME} {VERSION}"
    assert (hub.models, hub.versions, hub.artifacts) == before
    assert hub.artifacts[max(hub.artifacts)]["uri"] == published.as_uri()


def test_wherever_it_dies_the_next_time_completes_it(hub: Hub, published: Path) -> None:
    """Each request in turn is the first that is not answered."""
    tries = 0
    while True:
        tries += 1
        for things in (hub.models, hub.versions, hub.artifacts):
            things.clear()
        hub.asked.clear()
        hub.dies_at = tries
        said = tell(published, hub.url)
        if said.startswith("told"):
            break
        assert said.startswith(f"published, but the Kubeflow Model Registry at {hub.url} does not know it")
        hub.dies_at = None
        assert tell(published, hub.url).endswith(f"{NAME} {VERSION}")
        assert [len(things) for things in (hub.models, hub.versions, hub.artifacts)] == [1, 1, 1]
    assert tries > 5, "there were as many requests"


def test_the_environment_says_where_it_is_and_has_the_token(
    hub: Hub, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTORL_MODEL_REGISTRY", hub.url)
    monkeypatch.setenv("MTORL_MODEL_REGISTRY_TOKEN", "s3cret")
    said = tell(published)
    assert said.startswith("told") and "s3cret" not in said
    assert {authorization for _, _, authorization in hub.asked} == {"Bearer s3cret"}


def test_without_a_url_nobody_is_told(published: Path, hub: Hub) -> None:
    assert tell(published) == "no Kubeflow Model Registry is named" and not hub.asked


def test_one_that_never_answers_is_not_waited_for(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        said = tell(published, f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert said.startswith("published, but") and "TimeoutError" in said


def test_a_version_without_a_lineage_is_registered_all_the_same(hub: Hub, tmp_path: Path) -> None:
    place = tmp_path / version(tmp_path, 1, "incumbent", "first")
    assert tell(place, hub.url) == f"told the Kubeflow Model Registry: mtorl-incumbent {VERSION}"
