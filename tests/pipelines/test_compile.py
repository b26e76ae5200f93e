"""The compiled pipelines: reproducible, thin, and the ones that lie in manifests/pipelines."""

import re
from pathlib import Path

import pytest
import yaml

from pipelines.compile import compile_all
from tests.repository import ROOT


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return compile_all(tmp_path_factory.mktemp("first"))


def test_compiling_twice_gives_the_same_bytes(compiled: list[Path], tmp_path: Path) -> None:
    assert [path.read_bytes() for path in compile_all(tmp_path)] == [path.read_bytes() for path in compiled]


def test_manifests_hold_the_compiled_pipelines(compiled: list[Path]) -> None:
    for path in compiled:
        kept = ROOT / "manifests" / "pipelines" / path.name
        assert kept.read_text() == path.read_text(), f"{kept} is stale: make compile"


def test_only_training_asks_for_a_gpu(compiled: list[Path]) -> None:
    executors = next(yaml.safe_load_all(compiled[0].read_text()))["deploymentSpec"]["executors"]
    accelerated = {name for name, executor in executors.items() if "resources" in executor["container"]}
    assert accelerated == {"exec-train-challenger"}
    assert executors["exec-train-challenger"]["container"]["resources"]["accelerator"]["resourceType"] == (
        "nvidia.com/gpu"
    )


def test_every_step_has_the_volume_and_none_runs_as_root(compiled: list[Path]) -> None:
    for path in compiled:
        spec, platform = yaml.safe_load_all(path.read_text())
        settings_of = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        assert set(settings_of) == set(spec["deploymentSpec"]["executors"])
        for name, settings in settings_of.items():
            assert settings["securityContext"]["runAsNonRoot"] is True, name
            assert settings["pvcMount"][0]["mountPath"] == "/mnt/mtorl", name


def test_only_what_follows_from_its_inputs_alone_is_cached(compiled: list[Path]) -> None:
    cached = set()
    for path in compiled:
        root = next(yaml.safe_load_all(path.read_text()))
        graphs = [root["root"]["dag"], *(part["dag"] for part in root["components"].values() if "dag" in part)]
        for graph in graphs:
            cached |= {
                name for name, task in graph["tasks"].items() if task.get("cachingOptions", {}).get("enableCache")
            }
    assert cached == {"fit-incumbent", "train-challenger", "evaluate", "package"}


def test_a_placeholder_is_a_whole_value(compiled: list[Path]) -> None:
    """A cluster leaves a placeholder inside a longer text as it is; kfp.local does not, which would hide it here."""
    for path in compiled:
        for placeholder in re.findall(r"constant: (.*\{\{\$.*)", path.read_text()):
            assert re.fullmatch(r"'?\{\{\$[\w.]+\}\}'?", placeholder), placeholder


def test_components_are_thin(compiled: list[Path]) -> None:
    """The library lives in the image; a component's own source is a call into a room."""
    for path in compiled:
        spec = next(yaml.safe_load_all(path.read_text()))
        for name, executor in spec["deploymentSpec"]["executors"].items():
            source = executor["container"]["command"][-1]
            assert len(source.splitlines()) < 70, f"{name} does the work itself"
            assert "pip install" not in " ".join(executor["container"]["command"]), name
