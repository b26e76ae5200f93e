"""What a command takes: time, CPU time and peak memory of a process of its own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Collection, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def measured(
    command: Sequence[str], expected: Collection[int] = (0,), out: Path = Path(os.devnull)
) -> dict[str, float]:
    """Run a command to its end, with the project's code from here.

    Args:
        command: Its words.
        expected: Exit codes that are no failure.
        out: File for what it prints.
    """
    started = time.perf_counter()
    with out.open("w") as printed:
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=printed)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in expected:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mib": used.ru_maxrss / 1024,
    }
