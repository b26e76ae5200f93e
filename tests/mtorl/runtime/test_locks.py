"""Tests that a lock has one holder, and is released when the holder is killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtorl.runtime.locks import acquire, locked

HOLD = """
import pathlib, sys
from mtorl.runtime.locks import acquire
acquire(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_busy_lock_raises_the_callers_error(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with locked(path, ValueError("busy")):
        with pytest.raises(ValueError, match="busy"), locked(path, ValueError("busy")):
            pass
        with pytest.raises(ValueError, match="busy"), locked(path, ValueError("busy"), wait_seconds=0.1, shared=True):
            pass
    with locked(path, ValueError("busy")) as lock:
        assert os.fstat(lock).st_ino == path.stat().st_ino


def test_a_shared_lock_has_several_holders(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    first, second = acquire(path, shared=True), acquire(path, shared=True)
    with pytest.raises(BlockingIOError):
        acquire(path)
    os.close(first)
    os.close(second)
    os.close(acquire(path))


@pytest.mark.integration
def test_a_killed_holder_releases_the_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], text=True, **pipes)
    assert holder.stdout and holder.stdout.readline()
    with pytest.raises(BlockingIOError):
        acquire(path)
    holder.kill()
    holder.wait()
    os.close(acquire(path, wait_seconds=5))
