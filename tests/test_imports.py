"""The arrows between the rooms (docs/architecture.md), read from the source: no module imports upward."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("mtorl", "features", "serving", "monitoring", "components", "pipelines", "cli")
MAY_IMPORT = {
    "mtorl": set(),
    "features": {"mtorl"},
    "serving": {"mtorl"},
    "monitoring": {"mtorl"},
    "components": {"features", "serving", "monitoring", "mtorl"},
    "pipelines": {"components", "features", "serving", "monitoring", "mtorl"},
    "cli": {"pipelines", "components", "features", "serving", "monitoring", "mtorl"},
}
FORBIDDEN = {
    "mtorl": {"kubernetes", "kfp", "feast", "kserve", "evidently", "ts", "ibis", "pandera", "pyspark", "redis"},
    "features": {"kfp", "kserve", "evidently", "ts"},
    "serving": {"torch", "kfp", "evidently", "ibis", "pandera", "pyspark"},
    "monitoring": {"kfp", "kserve", "feast", "ts", "torch"},
}


def _modules() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def _imports(path: Path) -> set[str]:
    """Full names of everything that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_imports_upward(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    imported = {name.split(".")[0] for name in _imports(path)}
    assert not imported & (set(ROOMS) - MAY_IMPORT[room] - {room}), "imports a room that it must not know"
    assert not imported & FORBIDDEN.get(room, set()), "imports a library that its room must not know"


def test_router_knows_no_offline_feast() -> None:
    for path in sorted((ROOT / "serving" / "router").rglob("*.py")):
        names = _imports(path)
        assert not any(name.split(".")[0] in {"ibis", "dask"} for name in names), path
        assert not any(name.startswith("feast.infra.offline_stores") for name in names), path


def test_the_predictor_is_the_model_alone() -> None:
    for path in sorted((ROOT / "serving" / "predictor").rglob("*.py")):
        ours = {name.split(".")[1] for name in _imports(path) if name.startswith("serving.")}
        assert ours <= {"handlers", "kserve_sdk", "predictor"}, path
        assert "ts" not in {name.split(".")[0] for name in _imports(path)}, path


def test_steps_import_no_module_that_defines_components() -> None:
    """Inside a running step kfp has no ``dsl.component``: what a step calls must not import components or pipelines."""
    for path in _modules():
        if path.relative_to(ROOT).parts[0] in ("components", "pipelines", "cli"):
            continue
        assert not any(name.split(".")[0] in {"components", "pipelines", "kfp"} for name in _imports(path)), path


@pytest.mark.parametrize(
    "module", ["mtorl.artifact", "mtorl.decision", "mtorl.windows", "mtorl.experiment", "cli.main"]
)
def test_light_modules_load_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch','feast','evidently','kserve','kfp') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
