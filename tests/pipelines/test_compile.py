"""The compiled pipelines: reproducible, thin, and the ones that lie in manifests/pipelines."""

from pathlib import Path

import pytest
import yaml

from pipelines.compile import compile_all

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return compile_all(tmp_path_factory.mktemp("first"))


def test_compiling_twice_gives_the_same_bytes(compiled: list[Path], tmp_path: Path) -> None:
    assert [path.read_bytes() for path in compile_all(tmp_path)] == [path.read_bytes() for path in compiled]


def test_manifests_hold_the_compiled_pipelines(compiled: list[Path]) -> None:
    for path in compiled:
        kept = ROOT / "manifests" / "pipelines" / path.name
        assert kept.read_text() == path.read_text(), f"{kept} is stale: make compile"


def test_training_asks_for_a_gpu_and_no_step_runs_as_root(compiled: list[Path]) -> None:
    spec, platform = yaml.safe_load_all(compiled[0].read_text())
    executors = spec["deploymentSpec"]["executors"]
    assert (
        executors["exec-train-challenger"]["container"]["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
    )
    for name, settings in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].items():
        assert settings["securityContext"]["runAsNonRoot"] is True, name


def test_components_are_thin(compiled: list[Path]) -> None:
    """The library lives in the image; a component's own source is a call into a room."""
    for path in compiled:
        spec = next(yaml.safe_load_all(path.read_text()))
        for name, executor in spec["deploymentSpec"]["executors"].items():
            source = executor["container"]["command"][-1]
            assert len(source.splitlines()) < 70, f"{name} does the work itself"
            assert "pip install" not in " ".join(executor["container"]["command"]), name
