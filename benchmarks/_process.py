"""Runs a task in a subprocess, and measures its time and its peak memory.

A task is a top-level function that returns a dictionary. Its imports are in its body, so that the parent process needs
little memory. Peak memory is the sum of VmHWM over the task's processes, because `ru_maxrss` also counts the parent's
memory.
"""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from serving.local.ports import free_ports

ROOT = Path(__file__).parents[1]
_POLL = 0.05  # seconds between two readings of the memory


@contextmanager
def clock() -> Iterator[dict[str, float]]:
    """Measure the wall time and the CPU time of the block into the yielded dictionary."""
    figures: dict[str, float] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield figures
    figures.update(seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - cpu)


def run(task: Callable[..., dict[str, Any]], **arguments: Any) -> dict[str, Any]:
    """Run a task in a subprocess, print its figures, and return them with its peak memory, `peak_mib`.

    The arguments must be JSON values or paths. A failed task raises RuntimeError.
    """
    name = f"{task.__module__}:{task.__qualname__}"
    with tempfile.TemporaryDirectory(prefix="mtorl-bench-child-") as folder:
        answer, console = Path(folder) / "answer.json", Path(folder) / "console.txt"
        command = [sys.executable, "-m", "benchmarks._process", name, json.dumps(arguments, default=str), str(answer)]
        # The command `mtorl` sets the same variable.
        environment = {"ARROW_DEFAULT_MEMORY_POOL": "jemalloc", **os.environ}
        with console.open("w") as output:
            process = psutil.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        marks: dict[int, float] = {}
        try:
            while process.poll() is None:
                with suppress(psutil.NoSuchProcess):
                    for member in (process, *process.children(recursive=True)):
                        marks[member.pid] = max(marks.get(member.pid, 0.0), _peak_mib(member.pid))
                time.sleep(_POLL)
        finally:
            with suppress(ProcessLookupError):
                # Kill all processes that the task has left.
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode:
            last = console.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
            raise RuntimeError(f"{name}: exit code {process.returncode}: {last[0]}")
        figures: dict[str, Any] = json.loads(answer.read_text())
    marks[process.pid] = max(marks.get(process.pid, 0.0), figures.pop("own_mib"))
    figures["peak_mib"] = round(sum(marks.values()), 1)
    print(f"{name}: {figures.get('seconds', 0):.2f} s, {figures['peak_mib']:,.0f} MiB", flush=True)
    return figures


@contextmanager
def redis_server(folder: Path, port: int = 0, **settings: str) -> Iterator[int]:
    """Start a Redis server and yield its port; 0 selects a free port.

    The settings are options of Redis, with "_" instead of "-".
    """
    from redis import Redis
    from redis.backoff import ConstantBackoff
    from redis.retry import Retry

    program = shutil.which("redis-server")
    if not program:
        raise FileNotFoundError("redis-server is not on the PATH; apt-get install redis-server")
    port = port or free_ports(1)[0]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    command += [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        retry = Retry(ConstantBackoff(0.05), 200)
        with Redis(port=port, password=settings.get("requirepass"), retry=retry) as client:
            client.ping()
        yield port
    finally:
        server.terminate()
        server.wait(10)


def _peak_mib(pid: int | str) -> float:
    """Return the peak memory of a process (VmHWM) in MiB; 0 if the process has exited."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    name, arguments, answer = sys.argv[1:]
    module, function = name.split(":")
    figures = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    figures["own_mib"] = _peak_mib("self")
    Path(answer).write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
