"""Tests that versions in the model registry are complete and never change."""

import json
import shutil
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mtorl.artifact.artifact import ArtifactError, digest_of
from mtorl.artifact.lineage import FILE, Lineage
from serving import messages
from serving.registry import FIRST, RegistryError, folder_of, newest, publish, published_digest
from tests.messages import raises
from tests.serving.small_versions import DAY_0, lineage, lineage_of, version


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "challenger.mar"
    path.write_bytes(b"archive")
    return path


def changed(artifact: Any, folder: Path, **changes: Any) -> Path:
    shutil.copytree(artifact.folder, folder)
    model = {k: v for k, v in artifact.model.items() if k not in ("digest", "version")} | changes
    digest = digest_of(model)
    (folder / "model.json").write_text(json.dumps({**model, "version": digest[:12], "digest": digest}))
    return folder


def put(artifact: Path, archive: Path, registry: Path, arm: str, version: str = "") -> Path:
    model = json.loads((artifact / "model.json").read_text())
    return publish(artifact, archive, registry, arm, lineage_of(model), version)


def test_a_version_is_complete_and_nobody_may_write_to_its_files(artifact: Any, archive: Path, tmp_path: Path) -> None:
    place = put(artifact.folder, archive, tmp_path / "registry", "challenger")
    assert place == tmp_path / "registry" / "challenger" / artifact.model["version"]
    assert published_digest(place) == artifact.digest
    assert (place / "model-store" / "challenger.mar").read_bytes() == b"archive"
    assert {stat.S_IMODE(path.stat().st_mode) for path in place.rglob("*") if path.is_file()} == {0o440}
    assert {stat.S_IMODE(path.stat().st_mode) for path in place.rglob("*") if path.is_dir()} == {0o750}


def test_the_lineage_of_another_model_is_refused(artifact: Any, archive: Path, tmp_path: Path) -> None:
    registry, known = tmp_path / "registry", lineage_of(artifact.model)
    with raises(RegistryError, messages.OTHER_LINEAGE, digest="0" * 12):
        publish(artifact.folder, archive, registry, "challenger", known.replace(digest="0" * 64))
    assert not registry.exists()
    place = publish(artifact.folder, archive, registry, "challenger", known)
    assert Lineage.read(place) == known and stat.S_IMODE((place / FILE).stat().st_mode) == 0o440
    publish(artifact.folder, archive, registry, "challenger", known.replace(settings={"seed": 8}))
    assert Lineage.read(place) == known, "a version is never changed"


@pytest.mark.parametrize("lacks", ["everything", "model-store/challenger.mar", "artifact/network.onnx", "a byte"])
def test_an_incomplete_version_is_replaced(artifact: Any, archive: Path, tmp_path: Path, lacks: str) -> None:
    """Mounting a missing version, for example, leaves an empty folder."""
    registry = tmp_path / "registry"
    place = put(artifact.folder, archive, registry, "challenger")
    if lacks == "everything":
        shutil.rmtree(place)
        place.mkdir()
    elif lacks == "a byte":
        (place / "artifact" / "network.onnx").chmod(0o640)
        (place / "artifact" / "network.onnx").write_bytes(b"")
    else:
        (place / lacks).unlink()
    assert published_digest(place) is None
    assert put(artifact.folder, archive, registry, "challenger") == place
    assert published_digest(place) == artifact.digest


def test_a_version_never_changes_its_model(artifact: Any, archive: Path, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    put(artifact.folder, archive, registry, "incumbent", FIRST)
    other = changed(artifact, tmp_path / "other", git_revision="another")
    with raises(RegistryError, messages.VERSION_TAKEN, version=registry / "incumbent" / FIRST):
        put(other, archive, registry, "incumbent", FIRST)
    assert published_digest(registry / "incumbent" / FIRST) == artifact.digest


@pytest.mark.parametrize("first_simulated", [True, False])
def test_models_of_simulated_data_and_of_a_real_log_do_not_mix(
    artifact: Any, archive: Path, tmp_path: Path, first_simulated: bool
) -> None:
    registry = tmp_path / "registry"
    one = changed(artifact, tmp_path / "one", simulated=first_simulated)
    other = changed(artifact, tmp_path / "other", simulated=not first_simulated)
    with pytest.raises(FileNotFoundError):
        put(other, archive.with_name("missing.mar"), registry, "challenger")  # a failure decides nothing
    put(one, archive, registry, "challenger")
    with raises(RegistryError, messages.OTHER_KIND, registry=registry):
        put(other, archive, registry, "challenger")
    put(other, archive, tmp_path / "another registry", "challenger")


def test_a_damaged_artifact_is_not_published(artifact: Any, archive: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(artifact.folder, damaged)
    (damaged / "network.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError):
        put(damaged, archive, tmp_path / "registry", "challenger")
    assert not list((tmp_path / "registry").glob("challenger/*"))


def test_a_model_is_found_by_its_digest(artifact: Any, archive: Path, tmp_path: Path) -> None:
    place = put(artifact.folder, archive, tmp_path / "registry", "challenger", FIRST)
    (tmp_path / "registry" / "challenger" / "empty").mkdir()
    shutil.copytree(place, place.with_name(".first.0123abcd"))  # left by a process that was killed
    assert folder_of(tmp_path / "registry", artifact.digest) == place / "artifact"
    assert folder_of(tmp_path / "registry", "0" * 64) is None


def test_the_newest_model_is_found(artifact: Any, archive: Path, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    assert newest(registry) is None and folder_of(registry, None) is None
    for name, created in (("a", "2026-01-02T00:00:00Z"), ("b", "2026-01-01T23:00:00Z"), ("c", "rubbish"), ("d", None)):
        folder = registry / "challenger" / name / "artifact"
        folder.mkdir(parents=True)
        (folder / "model.json").write_text(json.dumps({"created": created}))
    found = newest(registry)
    assert found is not None and found.isoformat() == "2026-01-02T00:00:00+00:00"
    assert folder_of(registry, None) == registry / "challenger" / "a" / "artifact"


def test_a_model_that_needs_an_experiment_is_not_the_newest(tmp_path: Path) -> None:
    """A model that needs an experiment doesn't serve by itself, so it must not end an alert about old models."""
    gate = lineage(2).gate
    assert gate is not None
    version(tmp_path, 1)
    version(tmp_path, 2, known=lineage(2, gate=gate.replace(decision="experiment")))
    assert newest(tmp_path) == DAY_0 + timedelta(days=1)
