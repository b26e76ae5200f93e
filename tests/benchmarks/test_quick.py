"""Each script of benchmarks/ runs to its end with `--quick`, so that a changed room breaks no script unseen."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository import ROOT

NOT_QUICK = {"serving.py", "soak.py", "tables.py"}  # two need a finished run, and one writes into docs/
SCRIPTS = sorted({path.name for path in (ROOT / "benchmarks").glob("[a-z]*.py")} - NOT_QUICK)


@pytest.mark.long
@pytest.mark.integration
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_writes_its_figures(name: str, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(ROOT / "benchmarks" / name), "--quick", "--json", str(figures)]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    assert json.loads(figures.read_text())["environment"]
