"""The scripts of benchmarks/: they start, and the tables are those of the results."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.repository import ROOT


@pytest.fixture
def script() -> Any:
    """benchmarks/features.py as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))  # as when a script is run
        importlib.import_module("_environment")
    return importlib.import_module("benchmarks.features")


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "benchmarks").glob("[a-z]*.py")))
def test_each_script_starts_by_its_path(name: str, tmp_path: Path) -> None:
    """What lies beside it has names of packages that it needs."""
    if name == "tables.py":  # without arguments, it writes
        return
    command = [sys.executable, str(ROOT / "benchmarks" / name), "--help"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0 and "--json" in found.stdout, found.stderr


def test_tables_are_those_of_the_results(script: Any) -> None:
    """The pages under docs/tables say what benchmarks/results says, and there are no others."""
    tables = importlib.import_module("benchmarks.tables")
    assert tables.pages() == {page.stem: page.read_text() for page in (ROOT / "docs" / "tables").glob("*.md")}
