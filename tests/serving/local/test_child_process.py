import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from serving.local.child_process import ChildProcess
from tests.waiting import eventually

pytestmark = pytest.mark.integration


def run_script(tmp_path: Path, script: str, **options) -> ChildProcess:
    env = {**os.environ, "MARK": str(tmp_path)}
    return ChildProcess(["/bin/sh", "-c", script], log=tmp_path / "log", env=env, **options)


def log_of(tmp_path: Path) -> str:
    return (tmp_path / "log").read_text()


def test_stop_lets_the_command_finish_and_ends_what_it_started(tmp_path: Path, all_gone) -> None:
    child = run_script(tmp_path, "trap 'echo drained; exit 0' TERM; sleep 100 & echo up; wait")
    eventually(lambda: "up" in log_of(tmp_path))
    assert child.alive()
    child.stop()
    child.stop()
    assert not child.alive()
    assert "drained" in log_of(tmp_path)
    all_gone()


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace_period(tmp_path: Path, all_gone) -> None:
    child = run_script(tmp_path, "trap '' TERM; echo up; sleep 100 & while :; do sleep 1; done", grace=0.3)
    eventually(lambda: "up" in log_of(tmp_path))
    child.stop()
    all_gone()


def test_a_command_that_ends_takes_its_children_with_it(tmp_path: Path, all_gone) -> None:
    child = run_script(tmp_path, "trap '' TERM; sleep 100 & exit 3")
    eventually(lambda: not child.alive())
    assert "with status 3" in log_of(tmp_path)
    all_gone()
    child.stop()


def test_a_command_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    child = ChildProcess(["/no/such/program"], log=tmp_path / "log", env={})
    eventually(lambda: not child.alive())
    assert "/no/such/program" in log_of(tmp_path)
    child.stop()


def test_a_killed_supervisor_leaves_nothing_after_stop(tmp_path: Path, all_gone) -> None:
    child = run_script(tmp_path, "sleep 100 & echo up; wait")
    eventually(lambda: "up" in log_of(tmp_path))
    os.kill(child.pid, signal.SIGKILL)
    eventually(lambda: not child.alive())
    child.stop()
    all_gone()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, None])
def test_nothing_outlives_the_parent(tmp_path: Path, all_gone, end: signal.Signals | None) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    program = f"""
import os, pathlib, time
from serving.local.child_process import ChildProcess
log = pathlib.Path({str(tmp_path / "log")!r})
ChildProcess(["/bin/sh", "-c", "echo up; sleep 100 & wait"], log=log, env=dict(os.environ),
             scratch=pathlib.Path({str(scratch)!r}))
while "up" not in log.read_text():
    time.sleep(0.01)
time.sleep({1000 if end else 0})
"""
    parent = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "MARK": str(tmp_path)})
    eventually(lambda: "up" in log_of(tmp_path))
    if end:
        parent.send_signal(end)
    parent.wait()
    all_gone()
    assert not scratch.exists()
