import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.repository import ROOT


def test_a_broken_python_is_skipped(tmp_path: Path) -> None:
    """The first Python exits with an error, like pyenv's shim of an unselected version."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    broken, working, tools = (tmp_path / folder for folder in ("broken", "working", "tools"))
    for folder in (broken, working, tools):
        folder.mkdir()
    for tool in ("bash", "ls", "sort"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    (broken / name).write_text("#!/bin/sh\nexit 127\n")
    (broken / name).chmod(0o755)
    (working / name).symlink_to(sys.executable)

    def find(*folders: Path, **more: str) -> tuple[int, str, str]:
        environment = {"PATH": os.pathsep.join(map(str, [*folders, tools])), "HOME": str(tools), **more}
        words = [tools / "bash", ROOT / "scripts" / "find-python.sh"]
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    assert find(broken, working) == (0, f"{working / name}\n", "")
    for found, remedy in ((find(broken), "PYTHON="), (find(working, PYTHON=str(broken / name)), str(broken / name))):
        assert found[:2] == (1, "") and remedy in found[2]


def test_supported_versions_are_those_of_the_package() -> None:
    (line,) = re.findall(r"^SUPPORTED=\((.*?)\)", (ROOT / "scripts" / "find-python.sh").read_text(), re.M)
    versions = sorted(line.split())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [entry.split(" :: ")[-1] for entry in project["classifiers"]] == versions
    assert project["requires-python"] == f">={versions[0]},<3.{int(versions[-1].split('.')[1]) + 1}"
