"""A training in two processes, started by the one that wants it: it goes on after a kill, and ends with its caller."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mtorl.artifact.artifact import Artifact
from mtorl.fitting.processes import run_in_processes
from mtorl.fitting.task import FitTask
from mtorl.network.parallel import TrainingFailed
from mtorl.network.training import TrainConfig
from mtorl.runtime import progress
from tests.mtorl.fitting.worker_processes import CONFIG, checkpointed, eventually, learned, workers
from tests.mtorl.window.windows_folder import STEPS, write_windows_folder
from tests.repository import ROOT

pytestmark = pytest.mark.long


@pytest.fixture
def task(tmp_path: Path) -> FitTask:
    write_windows_folder(tmp_path / "windows", STEPS)
    return FitTask(str(tmp_path / "windows"), str(tmp_path / "model"), CONFIG, 0.5, str(tmp_path / "checkpoint"))


def test_a_task_is_what_was_kept(task: FitTask, tmp_path: Path) -> None:
    task.save(tmp_path / "task.json")
    assert FitTask.load(tmp_path / "task.json") == task


@pytest.mark.timeout(300)
def test_a_killed_process_costs_nothing_but_time(task: FitTask, tmp_path: Path) -> None:
    """Both are started again, go on from the checkpoint, and end where they would have ended."""
    whole = run_in_processes(FitTask(task.windows, str(tmp_path / "whole"), CONFIG, 0.5), 2)
    reports: list[tuple[float, float, str]] = []
    ended: list[Artifact | Exception] = []

    def train() -> None:
        try:
            ended.append(run_in_processes(task, 2, restarts=1))
        except Exception as error:
            ended.append(error)

    with progress.listen(lambda *report: reports.append(report)):
        training = threading.Thread(target=train)
        training.start()
        eventually(lambda: checkpointed(task) or ended)
        victim = workers(psutil.Process())[-1]
        victim.send_signal(signal.SIGKILL)
        training.join()
    (artifact,) = ended
    assert isinstance(artifact, Artifact), artifact
    assert learned(artifact) == learned(whole) and len(learned(whole)) == CONFIG.epochs
    assert artifact.metrics["members"] == whole.metrics["members"]
    assert reports[-1] == (1, 1, "thresholds of drift")
    assert any(note.startswith("validation loss") for _, _, note in reports)
    assert not checkpointed(task), "a training that ended well leaves no checkpoint"


@pytest.mark.timeout(300)
def test_what_they_cannot_use_is_one_error_and_not_tried_again(
    task: FitTask, capfd: pytest.CaptureFixture[str]
) -> None:
    Path(f"{task.checkpoint}.member-0").write_bytes(b"no checkpoint")
    with pytest.raises(TrainingFailed, match=r"checkpoint\.member-0: cannot be read .*; delete it to start anew"):
        run_in_processes(task, 2)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.timeout(300)
def test_what_always_fails_fails_at_last(task: FitTask, capfd: pytest.CaptureFixture[str]) -> None:
    """An error that is none of the input: here, of the path that it is to write to."""
    Path(task.out).parent.joinpath("file").write_text("")
    broken = FitTask(task.windows, str(Path(task.out).parent / "file" / "model"), TrainConfig(epochs=1, hidden=8), 0.5)
    with pytest.raises(TrainingFailed, match="2 processes that train together failed 2 times; the log above says why"):
        run_in_processes(broken, 2, restarts=1)
    assert capfd.readouterr().err.count("[rank0]: Traceback") == 2


@pytest.mark.timeout(300)
def test_sigterm_ends_all_of_them_and_a_new_run_goes_on(
    task: FitTask, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As when a node is drained."""
    task.save(tmp_path / "task.json")
    code = (
        "import sys; from pathlib import Path; from mtorl.fitting.processes import run_in_processes; "
        "from mtorl.fitting.task import FitTask; run_in_processes(FitTask.load(Path(sys.argv[1])), 2)"
    )
    caller = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "task.json")], cwd=ROOT)
    eventually(lambda: checkpointed(task) or caller.poll() is not None)
    left = psutil.Process(caller.pid).children(recursive=True)
    assert len(left) >= 3  # torchrun and two workers
    caller.send_signal(signal.SIGTERM)
    assert caller.wait() == 143
    psutil.wait_procs(left, timeout=60)
    assert not [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert checkpointed(task)
    artifact = run_in_processes(replace(task, out=str(tmp_path / "of a new run")), 2)
    assert "goes on from a checkpoint: epoch" in capfd.readouterr().err
    assert len(learned(artifact)) == CONFIG.epochs
