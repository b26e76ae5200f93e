"""Which Python `make` takes for the environment."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.repository import ROOT

NAME = f"python{sys.version_info.major}.{sys.version_info.minor}"
pytest.importorskip("ensurepip", reason="this Python can make no environment")


def find(path: list[Path], *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script where only these folders, and what the script itself needs, are on the PATH."""
    tools = path[0].parent / "tools"
    tools.mkdir(exist_ok=True)
    for tool in ("bash", "ls", "sort"):
        if not (tools / tool).exists():
            (tools / tool).symlink_to(str(shutil.which(tool)))
    return subprocess.run(
        [tools / "bash", ROOT / "scripts" / "find-python.sh", *arguments],
        env={"PATH": os.pathsep.join(map(str, [*path, tools])), "HOME": str(tools), **environment},
        capture_output=True,
        text=True,
    )


def test_a_python_that_does_not_run_is_passed_over_and_without_one_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    """The broken one ends with an error, as pyenv's do for what is not selected."""
    broken, working = tmp_path / "broken", tmp_path / "working"
    for folder in (broken, working):
        folder.mkdir()
    (broken / NAME).write_text("#!/bin/sh\nexit 127\n")
    (broken / NAME).chmod(0o755)
    (working / NAME).symlink_to(sys.executable)
    assert find([broken, working]).stdout == find([working], "--every").stdout == f"{working / NAME}\n"
    answer = find([broken])
    assert answer.returncode == 1 and "apt-get install python3-venv" in answer.stderr and "PYTHON=" in answer.stderr
    answer = find([working], PYTHON=str(broken / NAME))
    assert answer.returncode == 1 and not answer.stdout and str(broken / NAME) in answer.stderr


def test_supported_versions_are_those_of_the_package() -> None:
    (line,) = re.findall(r"^SUPPORTED=\((.*?)\)", (ROOT / "scripts" / "find-python.sh").read_text(), re.M)
    versions = sorted(line.split())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [entry.split(" :: ")[-1] for entry in project["classifiers"]] == versions
    assert project["requires-python"] == f">={versions[0]},<3.{int(versions[-1].split('.')[1]) + 1}"
