"""Profiles a router with py-spy: which functions hold Python's global lock, and for which share of the time."""

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from _environment import ROOT

# Stacks recorded per second.
_RATE = 200
# Number of reported functions.
_MOST = 25
_ROOMS = ("serving/", "mtorl/", "features/")


class Profile:
    """A profiler that runs while a process is under load."""

    def __init__(self, pid: int, seconds: float) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._file = Path(self._folder.name) / "stacks"
        options = ["--subprocesses", "--gil", "--nonblocking", "--format", "raw"]
        options += ["--rate", f"{_RATE}", "--duration", f"{seconds:.0f}"]
        command = [
            Path(sys.executable).with_name("py-spy"),
            "record",
            "--pid",
            f"{pid}",
            *options,
            "--output",
            self._file,
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def shares(self) -> dict[str, float]:
        """Return the share of the samples by function, the largest first.

        Each sample counts for the innermost function of this project or, if the stack has none, for "libraries".
        """
        if self._process.wait():
            raise RuntimeError("py-spy failed: it needs root, or the permission to trace processes")
        found: Counter[str] = Counter()
        for line in self._file.read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            frames = [frame.strip() for frame in stack.split(";")]
            found[next(filter(None, map(_of_project, reversed(frames))), "libraries")] += int(count)
        self._folder.cleanup()
        if not found:
            raise RuntimeError("py-spy saw no thread with Python's global lock: is the process a router under load?")
        return {name: count / found.total() for name, count in found.most_common(_MOST)}


def _of_project(frame: str) -> str | None:
    """Return "function (path)" for a stack frame of this project; None for other frames."""
    function, _, place = frame.partition(" (")
    path = place.rpartition(":")[0].removeprefix(f"{ROOT}/")
    return f"{function} ({path})" if path.startswith(_ROOMS) else None
