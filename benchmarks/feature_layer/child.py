"""Run one task in a process of its own and tell how long it took and how much memory it needed.

    figures = run(task, rows=1000)  # {"seconds": 0.1, "cpu_seconds": 0.2, "peak_mib": 90.0, ...what task returned}

A task is a function at the top of a module of this package; it returns a dictionary. It must import the project inside
its body: the parent stays small, and what it holds is in nobody's figures. Whatever goes wrong comes back as
{"error": "..."}; a task over a limit is ended and comes back as {"stopped": "after 60 s"}.

Peak memory is the sum of the high-water marks of all processes of the task's tree, from /proc/PID/status. It is not
`ru_maxrss`, which a child inherits from the process that started it.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# From the root, not from this folder: there `import features` would find the script of that name.
_PACKAGE = "benchmarks.feature_layer"
_POLL = 0.05  # seconds between looks at the memory


@contextmanager
def clock() -> Iterator[dict[str, float]]:
    """Wall and CPU seconds (all threads of this process) of the block; the dictionary is filled at its end."""
    figures: dict[str, float] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield figures
    figures.update(seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - cpu)


def run(
    task: Callable[..., dict[str, Any]],
    *,
    limit_s: float = 1800,
    limit_mib: float = 14_000,
    env: dict[str, str] | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Run a task in a new process.

    Args:
        task: Function of a module of this package.
        limit_s: Seconds after which it is ended.
        limit_mib: Resident memory of its process tree, MiB, over which it is ended.
        env: Further environment variables.
        arguments: What the task is called with; must be JSON, paths become text.

    Returns:
        What the task returned and `peak_mib`; or `error`; or `stopped` and `peak_mib`.
    """
    name = f"{task.__module__.rsplit('.', 1)[-1]}:{task.__qualname__}"
    with tempfile.TemporaryDirectory(prefix="mtorl-bench-child-") as folder:
        answer, console = Path(folder) / "answer.json", Path(folder) / "console.txt"
        command = [sys.executable, "-m", f"{_PACKAGE}.child", name, json.dumps(arguments, default=str), str(answer)]
        with console.open("w") as output:
            # Arrow's memory as `mtorl` has it.
            environment = {"ARROW_DEFAULT_MEMORY_POOL": "jemalloc", **os.environ, **(env or {})}
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        marks: dict[int, float] = {}
        began, stopped = time.monotonic(), ""
        try:
            while process.poll() is None and not stopped:
                resident = _look(process.pid, marks)
                if time.monotonic() - began > limit_s:
                    stopped = f"after {limit_s:,.0f} s"
                elif resident > limit_mib:
                    stopped = f"over {limit_mib / 1024:,.0f} GiB of memory after {time.monotonic() - began:,.0f} s"
                time.sleep(_POLL)
        finally:
            _end(process)
        peak = round(sum(marks.values()), 1)
        if stopped:
            return {"stopped": stopped, "peak_mib": peak}
        if not answer.exists():
            last = console.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
            return {"error": f"{name}: exit code {process.returncode}: {last[0]}"}
        figures: dict[str, Any] = json.loads(answer.read_text())
        missed = max(0.0, figures.pop("own_mib") - marks.get(process.pid, 0.0))  # since the last look
        return figures if "error" in figures else {**figures, "peak_mib": round(peak + missed, 1)}


def median(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The run of median time, with the highest peak and the times of all; a run that failed stands for all."""
    for figures in runs:
        if "seconds" not in figures:
            return figures
    middle = statistics.median_low([figures["seconds"] for figures in runs])
    chosen = next(figures for figures in runs if figures["seconds"] == middle)
    times = [round(figures["seconds"], 3) for figures in runs]
    return {**chosen, "peak_mib": max(figures["peak_mib"] for figures in runs), "runs_seconds": times}


def brief(figures: dict[str, Any]) -> str:
    """One line for the console."""
    for key in ("error", "stopped"):
        if key in figures:
            return f"{key} {figures[key]}"
    return f"{figures['seconds']:.2f} s, {figures['peak_mib']:,.0f} MiB"


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the task's session: it, and whatever it has left running
    process.wait()


def _look(root: int, marks: dict[int, float]) -> float:
    """Bring the high-water marks of a process tree up to date; its resident memory now, MiB."""
    parents: dict[int, int] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(Path(entry.path, "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
    tree = {root}
    while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= more
    resident = 0.0
    for pid in tree:
        memory = _memory(pid)
        marks[pid] = max(marks.get(pid, 0.0), memory.get("VmHWM", 0.0))
        resident += memory.get("VmRSS", 0.0)
    return resident


def _memory(pid: int | str) -> dict[str, float]:
    """VmHWM and VmRSS of a process, MiB; empty once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if line.startswith(("VmHWM", "VmRSS")))
    return {key: int(value.split()[0]) / 1024 for key, value in pairs}


def main() -> None:
    """What the new process does."""
    name, arguments, answer = sys.argv[1:]
    module, function = name.split(":")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        task = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), function)
        figures = task(**json.loads(arguments))
    except Exception as error:
        traceback.print_exc()
        figures = {"error": f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    figures["own_mib"] = _memory("self").get("VmHWM", 0.0)
    Path(answer).write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
