import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from serving.archive import ArchiveError, package

pytestmark = pytest.mark.integration  # runs torch-model-archiver


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """Return an artifact's folder with a fake network and encoder, which no test loads."""
    folder = tmp_path / "a,rti[fact]"  # characters that torch-model-archiver itself can't handle
    folder.mkdir()
    (folder / "network.onnx").write_bytes(bytes(range(256)) * 40)
    (folder / "encoder.json").write_text('{"channels": ["search"]}\n')
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    model = {"name": "m", "version": "0123456789ab", "created": "2026-01-02T03:04:05Z", "files": files}
    (folder / "model.json").write_text(json.dumps(model))
    return folder


def test_an_archive_contains_the_artifact_byte_for_byte(artifact: Path, tmp_path: Path) -> None:
    mar = package(artifact, "challenger", tmp_path / "store")
    assert mar == tmp_path / "store" / "challenger.mar"
    with zipfile.ZipFile(mar) as archive:
        archive.extractall(tmp_path / "unpacked")
    unpacked = tmp_path / "unpacked"
    for name, digest in json.loads((unpacked / "artifact" / "model.json").read_text())["files"].items():
        assert hashlib.sha256((unpacked / "artifact" / name).read_bytes()).hexdigest() == digest
    manifest = json.loads((unpacked / "MAR-INF" / "MANIFEST.json").read_text())
    assert manifest["model"]["modelName"] == "challenger"
    assert manifest["model"]["modelVersion"] == "0123456789ab"
    assert manifest["createdOn"] == "2026-01-02T03:04:05Z"
    assert (unpacked / manifest["model"]["handler"]).exists()
    config = yaml.safe_load((unpacked / manifest["model"]["configFile"]).read_text())
    assert config["batchSize"] == 1 and "maxBatchDelay" not in config, "a single request must not wait for others"


def test_with_gather_a_model_batches_the_requests_of_several_callers(artifact: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(package(artifact, "challenger", tmp_path / "store", gather=True)) as archive:
        config = yaml.safe_load(archive.read("model-config.yaml"))
    assert (config["batchSize"], config["maxBatchDelay"]) == (8, 1), "TorchServe takes a delay of 0 as 100 ms"


def test_the_same_artifact_gives_the_same_bytes_and_a_failure_leaves_them(artifact: Path, tmp_path: Path) -> None:
    mar = package(artifact, "challenger", tmp_path / "store")
    before = mar.read_bytes()
    (artifact / "network.onnx").touch()
    package(artifact, "challenger", tmp_path / "store")
    with pytest.raises(ArchiveError, match="special characters"):
        package(artifact, "../challenger", tmp_path / "store")
    assert mar.read_bytes() == before
    assert list((tmp_path / "store").iterdir()) == [mar]


@pytest.mark.parametrize("text", [None, "{", "{}", "[]"])
def test_a_folder_that_is_no_artifact_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "model.json").write_text(text)
    with pytest.raises(ArchiveError):
        package(tmp_path, "challenger", tmp_path / "store")


def test_the_handler_in_an_archive_finds_its_base_in_the_package(artifact: Path, tmp_path: Path) -> None:
    """The test loads only this file of the archive, as TorchServe's worker does."""
    mar = package(artifact, "challenger", tmp_path / "store")
    with zipfile.ZipFile(mar) as archive:
        archive.extractall(tmp_path / "unpacked")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path / "unpacked")!r})
from ts.model_loader import TsModelLoader
module, _ = TsModelLoader()._load_handler_file("policy.py")
entry, _ = TsModelLoader()._get_class_entry_point(module)
base = type(entry.__self__).__mro__[1]
print(module.__file__, f"{{base.__module__}}.{{base.__name__}}")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    # Published archives import this class by name, so the name must never change.
    base = "serving.handlers.policy_handler.PolicyHandler"
    assert done.stdout.split() == [str(tmp_path / "unpacked" / "policy.py"), base], done
