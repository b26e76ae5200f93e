"""Tests that imports follow the order in docs/architecture.md, without cycles."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.repository import ROOT

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
    "mtorl": {"kubernetes", "kfp", "feast", "kserve", "evidently", "ts", "ibis", "pyspark", "redis"},
    "features": {"kfp", "kserve", "evidently", "ts"},
    "serving": {"torch", "kfp", "evidently", "ibis", "dask", "pyspark"},
    "monitoring": {"kfp", "kserve", "feast", "ts", "torch"},
}

PAGE = (ROOT / "docs" / "architecture.md").read_text()
ORDER = {
    room.replace("/", "."): re.findall(r"`([\w]+)(?:\.py)?`", order)
    for room, order in re.findall(r"^\| `([\w/]+)/` \| (`[^|]+` < [^|]+) \|$", PAGE, re.M)
}
"""Order inside each room: a folder or file may import itself and those before it."""


def _modules() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _imports(path: Path) -> frozenset[str]:
    """Return all modules that a file imports; `from a import b` gives both a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_imports_upward(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    imported = {name.split(".")[0] for name in _imports(path)}
    assert not imported & (set(ROOMS) - MAY_IMPORT[room] - {room}), "imports a forbidden room"
    assert not imported & FORBIDDEN.get(room, set()), "imports a library that is forbidden in its room"


@pytest.mark.parametrize("room", ORDER)
def test_no_part_of_a_room_imports_a_later_part(room: str) -> None:
    package = room.replace(".", "/")
    order = ORDER[room]
    present = {p.stem for p in (ROOT / package).iterdir() if (p.suffix == ".py" or (p / "__init__.py").exists())}
    assert present - {"__init__", "__main__"} == set(order)
    for path in sorted((ROOT / package).rglob("*.py")):
        inner = _name(path).removeprefix(room).split(".")
        if len(inner) < 2 or inner[1] == "__main__":  # the package itself and its entry point
            continue
        later = order[order.index(inner[1]) + 1 :]
        upward = {name for name in _imports(path) for part in later if f"{name}.".startswith(f"{room}.{part}.")}
        assert not upward, f"{path.relative_to(ROOT)} imports {', '.join(sorted(upward))}"


def test_the_table_of_mtorl_is_current() -> None:
    """Each row has a folder, in import order, and ends with its files' names."""
    lines = (ROOT / "mtorl" / "README.md").read_text().splitlines()
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("| `")]
    table = {re.findall(r"`(\w+)", row[0])[0]: set(re.findall(r"`(\w+)", row[-1])) for row in rows}
    assert list(table) == list(ORDER["mtorl"])
    for room, named in table.items():
        folder = ROOT / "mtorl" / room
        files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
        folders = {path.name for path in folder.glob("[!_]*/") if path.is_dir()}
        assert named == files | folders, f"mtorl/README.md: the row of {room}/ should name its files"


def test_no_import_cycle() -> None:
    modules = {_name(path): path for path in _modules()}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        # `from package import module` counts for the package only if it defines the imported name.
        names = _imports(path)
        graph[name] = {other for other in names & set(modules) if other != name and not _face(other, names, modules)}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def _face(name: str, names: frozenset[str], modules: dict[str, Path]) -> bool:
    """Return whether a package is among `names` only because of its modules."""
    return modules[name].name == "__init__.py" and any(other.startswith(f"{name}.") for other in names & set(modules))


def test_router_imports_no_offline_feast() -> None:
    for path in sorted((ROOT / "serving" / "router").rglob("*.py")):
        names = _imports(path)
        assert not any(name.startswith("feast.infra.offline_stores") for name in names), path


def test_the_predictor_imports_only_the_model() -> None:
    for path in sorted((ROOT / "serving" / "predictor").rglob("*.py")):
        ours = {name.split(".")[1] for name in _imports(path) if name.startswith("serving.")}
        assert ours <= {"handlers", "kserve_sdk", "messages", "predictor"}, path
        assert "ts" not in {name.split(".")[0] for name in _imports(path)}, path


HEAVY = ("torch", "feast", "evidently", "plotly", "kserve", "kfp")
LIGHT = {
    "mtorl.artifact.artifact": HEAVY,
    "mtorl.policy.decision": HEAVY,
    "mtorl.window.window": HEAVY,
    "mtorl.experiment.experiment": HEAVY,
    "monitoring.watch.check": HEAVY,
    "monitoring.report": HEAVY,
    "cli.main": HEAVY,
    # These modules start pipelines, and torch is only in the image of the steps.
    "pipelines.cluster.compile": ("torch",),
    "pipelines.loop.run": ("torch",),
}


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {LIGHT[module]} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_every_module_can_be_imported() -> None:
    """`.ci/run` also runs this test on the newest Python, without torch."""
    names = [_name(path) for path in _modules() if path.name != "__main__.py"]
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL, *names], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


IMPORT_ALL = """
import importlib, importlib.util, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "torch" or importlib.util.find_spec("torch"):
            raise
"""
