"""Run one task in a process of its own, with its time and its peak memory.

    figures = run(task, rows=1000)  # {"seconds": 0.1, "cpu_seconds": 0.2, "peak_mib": 90.0, ...what task returned}

A task is a function at the top of a module; it returns a dictionary, usually with what `clock` measured. It imports the
project inside its body: the parent stays small, and what the parent holds is in no figure. A failure comes back as
{"error": "..."}; a task over a limit is ended and comes back as {"stopped": "after 60 s"}.

Peak memory is the sum of the high-water marks of all processes of the task's tree, from /proc/PID/status. It is not
`ru_maxrss`, which a child inherits from the process that started it.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_POLL = 0.05  # seconds between two readings of the memory


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
        task: Function of a module that can be imported.
        limit_s: Seconds after which it is ended.
        limit_mib: Resident memory of its process tree, MiB, over which it is ended.
        env: Further environment variables.
        arguments: What the task is called with; must be JSON, paths become text.

    Returns:
        What the task returned and `peak_mib`; or `error`; or `stopped` and `peak_mib`.
    """
    name = f"{task.__module__}:{task.__qualname__}"
    with tempfile.TemporaryDirectory(prefix="mtorl-bench-child-") as folder:
        answer, console = Path(folder) / "answer.json", Path(folder) / "console.txt"
        command = [sys.executable, "-m", "benchmarks._process", name, json.dumps(arguments, default=str), str(answer)]
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
                resident = _read_memory(process.pid, marks)
                if time.monotonic() - began > limit_s:
                    stopped = f"after {limit_s:,.0f} s"
                elif resident > limit_mib:
                    stopped = f"over {limit_mib / 1024:,.0f} GiB of memory after {time.monotonic() - began:,.0f} s"
                time.sleep(_POLL)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the task's session: it, and whatever it has left running
            process.wait()
        peak = round(sum(marks.values()), 1)
        if stopped:
            return {"stopped": stopped, "peak_mib": peak}
        if not answer.exists():
            last = console.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
            return {"error": f"{name}: exit code {process.returncode}: {last[0]}"}
        figures: dict[str, Any] = json.loads(answer.read_text())
        missed = max(0.0, figures.pop("own_mib") - marks.get(process.pid, 0.0))  # since the last reading
        return figures if "error" in figures else {**figures, "peak_mib": round(peak + missed, 1)}


def brief(figures: dict[str, Any]) -> str:
    """One line for the console."""
    for key in ("error", "stopped"):
        if key in figures:
            return f"{key} {figures[key]}"
    return f"{figures['seconds']:.2f} s, {figures['peak_mib']:,.0f} MiB"


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[str]:
    """A Redis of our own on a free port; gives its host:port."""
    program = shutil.which("redis-server")
    if not program:
        raise FileNotFoundError("redis-server is not on the PATH; apt-get install redis-server")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder), *options]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if time.monotonic() > end:
                raise TimeoutError("redis-server does not answer")
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _read_memory(root: int, marks: dict[int, float]) -> float:
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
        task = getattr(importlib.import_module(module), function)
        figures = task(**json.loads(arguments))
    except Exception as error:
        traceback.print_exc()
        figures = {"error": f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    figures["own_mib"] = _memory("self").get("VmHWM", 0.0)
    Path(answer).write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
