"""Test of the command in docs/pipelines.md that copies a file to the data volume."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.repository import ROOT

KUBECTL = """#!/bin/bash
[[ "$*" == "-n mtorl exec -i mtorl-router-0 -c router -- sh "* ]] || exit 9
head -c ${CUT:--0} | sh -ec "${@: -1:1}"
"""


@pytest.mark.parametrize(("cut", "content"), [("", "today"), ("3", "yesterday")], ids=["whole", "cut_off"])
def test_a_file_is_copied_atomically(cut: str, content: str, tmp_path: Path) -> None:
    (command,) = re.findall(r"```bash\n(FILE=.*?)```", (ROOT / "docs" / "pipelines.md").read_text(), re.DOTALL)
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)
    there = tmp_path / "volume" / "dataset.yaml"
    there.parent.mkdir()
    there.write_text("yesterday")
    (tmp_path / "my-log.yaml").write_text("today")
    path = {"PATH": f"{kubectl.parent}{os.pathsep}{os.environ['PATH']}", **({"CUT": cut} if cut else {})}
    command = command.replace("/mnt/mtorl", str(there.parent))
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=os.environ | path)
    assert (done.returncode == 0, there.read_text()) == (not cut, content)
    assert cut or there.stat().st_mode & 0o777 == 0o640
