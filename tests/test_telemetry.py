"""Tests that onnxruntime's telemetry is off in every process of the project."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.local.torchserve import java_environment
from tests.repository import ROOT

pytest.importorskip("onnxruntime")

_OFF = "ORT_DISABLE_TELEMETRY"
_COMMAND = "[sys.executable, '-c', 'import onnxruntime']"  # as in TorchServe's workers, before our modules


@pytest.mark.integration
@pytest.mark.parametrize(
    "code",
    [
        "import mtorl, onnxruntime",
        "import cli.main, onnxruntime",
        f"import subprocess, sys, serving.local.stack; subprocess.run({_COMMAND}, check=True)",
        f"""
import subprocess, sys
from pathlib import Path
from serving.local.torchserve import java_environment
subprocess.run({_COMMAND}, env=java_environment(Path(), Path(), Path()), check=True)""",
    ],
    ids=["library", "command line", "child of the local servers", "TorchServe"],
)
def test_a_process_that_runs_onnxruntime_collects_nothing(tmp_path: Path, code: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != _OFF}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment.pop("XDG_CACHE_HOME", None)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    kept = [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name]
    assert not kept, "onnxruntime stores reports there before it sends them"


def test_torchserve_and_its_workers_have_telemetry_off(tmp_path: Path) -> None:
    assert java_environment(tmp_path, tmp_path, tmp_path)[_OFF] == "1"
