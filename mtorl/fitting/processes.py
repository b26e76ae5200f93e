"""A training in several processes of this machine, one for each GPU, started and watched by this one.

    run_in_processes(task, processes=4)

torchrun starts them, and starts all of them again when one is killed: they go on from their checkpoint. They report to
a file, and what they report is told again here; so a caller sees no difference to a training in its own process. Their
output goes to this process's own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from mtorl.artifact.artifact import Artifact, load
from mtorl.fitting.task import FitTask
from mtorl.fitting.torchrun import LAUNCHER, RESTARTABLE, WORKER
from mtorl.network.parallel import TrainingFailed
from mtorl.runtime import progress

RESTARTS = 3
_LOOK_SECONDS = 0.5
_LAST_SECONDS = 20.0  # for processes to end by themselves


class Reports:
    """What processes report to a file; this process tells it again.

    Args:
        path: The file, which `mtorl.runtime.progress.ENV` names to them.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._read = path, 0
        self.last: tuple[float, float, str] | None = None
        """Done, total and note of the newest report of progress."""

    def skip(self) -> None:
        """Leave out what is there already, of an earlier attempt."""
        self._read = self.path.stat().st_size if self.path.exists() else 0

    def tell(self) -> None:
        """Report what is new.

        Raises:
            TrainingFailed: they can't use what they were given.
        """
        events, self._read = progress.read(self.path, self._read)
        for event in events:
            if "input_error" in event:
                raise TrainingFailed(str(event["input_error"]))
            self.last = (float(str(event["done"])), float(str(event["total"])), str(event["note"]))
            progress.report(*self.last)


def run_in_processes(task: FitTask, processes: int, restarts: int = RESTARTS) -> Artifact:
    """Train in several processes of this machine.

    Args:
        task: What to train.
        processes: How many.
        restarts: How often they are started again, at most.

    Returns:
        The artifact that they have left.

    Raises:
        TrainingFailed: they can't use what they were given, or one was killed or failed once more than `restarts`.
    """
    with tempfile.TemporaryDirectory() as folder, ended_by_sigterm():
        file, reports = Path(folder) / "task.json", Reports(Path(folder) / "progress.jsonl")
        task.save(file)
        options = ("--standalone", f"--nproc-per-node={processes}", f"--max-restarts={restarts}")
        launched = subprocess.Popen(
            [sys.executable, *LAUNCHER, *options, *WORKER, str(file)], env=_environment(processes, reports.path)
        )
        try:
            while launched.poll() is None:
                reports.tell()
                time.sleep(_LOOK_SECONDS)
            reports.tell()
        except TrainingFailed:
            with suppress(subprocess.TimeoutExpired):  # all of them meet the same error, and end without a word
                launched.wait(_LAST_SECONDS)
            raise
        finally:
            _end(launched)
    if launched.returncode:
        raise TrainingFailed(
            f"{processes} processes that train together failed {restarts + 1} times; the log above says why. Where it "
            "says SIGKILL, memory was short: give the step more, or lower batch_size"
        )
    return load(Path(task.out))


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise SystemExit inside the block, so that what was started is ended, too.

    As a shell says it: the exit code is 143.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _environment(processes: int, reports: Path) -> dict[str, str]:
    # LightGBM and pandas use threads, where the network does not.
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    return {"OMP_NUM_THREADS": threads, **os.environ, **RESTARTABLE, progress.ENV: str(reports)}


def _end(launched: subprocess.Popen[bytes]) -> None:
    if launched.poll() is not None:
        return
    launched.terminate()
    try:
        launched.wait(_LAST_SECONDS)
    except subprocess.TimeoutExpired:
        launched.kill()
        launched.wait()
