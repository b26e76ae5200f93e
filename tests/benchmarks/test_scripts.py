"""Tests that each script in benchmarks/ runs, and that the pages agree with its results."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mtorl.comparison.report import report
from tests.repository import ROOT

DOCS = ROOT / "docs"
NOT_QUICK = {"serving.py", "soak.py"}  # need a finished run
SCRIPTS = sorted({path.name for path in (ROOT / "benchmarks").glob("[a-z]*.py")} - {"tables.py"})  # writes docs/


@pytest.fixture
def script() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))  # as when it runs as a script
        importlib.import_module("_environment")
    return importlib.import_module("benchmarks.features")


def run(name: str, folder: Path, *options: str) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / name), *options]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1200)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    return found.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_starts_by_its_path(name: str, tmp_path: Path) -> None:
    """A script must not import its neighbouring files in place of packages with the same names."""
    assert "--json" in run(name, tmp_path, "--help")


@pytest.mark.long
@pytest.mark.integration
@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in NOT_QUICK])
def test_a_script_writes_its_figures(name: str, tmp_path: Path) -> None:
    run(name, tmp_path, "--quick", "--json", "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text())["environment"]


def test_figures_of_machines_are_never_mixed(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (written := tmp_path / "out.json").write_text(other := '{"quick": true, "environment": {"cpu": "another"}}')
    monkeypatch.setattr(sys, "argv", ["features.py", "--quick", "--only", "online", "--json", str(written)])
    with pytest.raises(SystemExit):
        script.main()
    assert written.read_text() == other


def test_pages_match_the_results(script: Any) -> None:
    tables = importlib.import_module("benchmarks.tables")
    assert tables.pages() == {page.stem: page.read_text() for page in (DOCS / "tables").glob("*.md")}
    figures = json.loads((DOCS / "results.json").read_text())
    assert (DOCS / "results.md").read_text() == report(figures["results"], figures["environment"])
