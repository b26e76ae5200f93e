"""Each script of benchmarks/ runs to its end with `--quick`, so that a changed room breaks no script unseen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository import ROOT

NOT_QUICK = {"_environment.py", "_markdown.py", "_process.py", "tables.py"}
SCRIPTS = sorted({path.name for path in (ROOT / "benchmarks").glob("*.py")} - NOT_QUICK)


@pytest.mark.long
@pytest.mark.integration
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_writes_its_figures(name: str, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(ROOT / "benchmarks" / name), "--quick", "--json", str(figures)]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    assert json.loads(figures.read_text())["environment"]
