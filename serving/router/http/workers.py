"""Several router processes on one port: `python -m serving.router --run-config router.yaml --workers 4`.

This process starts the others, each in an interpreter of its own, and decides nothing itself. The system divides
connections among them. They share the money as routers on several machines do: by a ledger on Redis.

A worker that ends is started again, after a pause that grows while it ends soon after its start; exit code 2, wrong
settings, ends all of them. SIGTERM and SIGINT let all of them finish what is in flight. Should this process be killed,
the system kills them, too.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from serving.ledger import open_ledger
from serving.local.child_process import before_exec
from serving.router.ops.settings import RouterSettings, SettingsError
from serving.router.ops.worker import Worker
from serving.shared_port import held_port

log = logging.getLogger(__name__)

WRONG_SETTINGS = 2
"""Exit code of a process that would end again in the same way."""
_POLL_SECONDS = 0.25
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0
_LONG_SECONDS = 60.0  # a worker that ran for so long did not end at its start
_STOP = {signal.SIGTERM, signal.SIGINT}
_DRAINED = {0, -signal.SIGTERM, -signal.SIGINT}  # a worker that has begun to work catches both


def supervise(settings: RouterSettings, count: int) -> int:
    """Run a router of several processes until SIGTERM or SIGINT, then wait until all of them have drained.

    Args:
        settings: Of each process.
        count: How many.

    Returns:
        The exit code: 0, `WRONG_SETTINGS` if a process ended with it, or 1 if one did not drain.

    Raises:
        SettingsError: They can't run side by side, or a port is taken.
    """
    _check(settings)
    with ExitStack() as held:
        port, grpc_port = _held(held, "port", settings.host, settings.port), settings.grpc_port
        if grpc_port is not None:
            grpc_port = _held(held, "grpc_port", settings.host, grpc_port)
        # Blocked, not handled: the loop takes them one by one.
        signal.pthread_sigmask(signal.SIG_BLOCK, {*_STOP, signal.SIGCHLD})
        metrics = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="mtorl-router-")))
        # The file is read once: one that was edited meanwhile is not for a worker that is started again.
        same = settings.model_copy(update={"port": port, "grpc_port": grpc_port})
        workers = [_Process(Worker(number, count, number == 0, metrics), same) for number in range(count)]
        wrong = False
        while not wrong:
            wrong = any([worker.look() == WRONG_SETTINGS for worker in workers])
            caught = signal.sigtimedwait({*_STOP, signal.SIGCHLD}, _POLL_SECONDS)
            if caught is not None and caught.si_signo in _STOP:
                break
        for worker in workers:
            worker.stop()
        drained = all([worker.wait() in _DRAINED for worker in workers])
    return WRONG_SETTINGS if wrong else 0 if drained else 1


def _check(settings: RouterSettings) -> None:
    """Whether several processes can have these settings."""
    if sys.platform != "linux":
        raise SettingsError("--workers: only Linux divides the connections of a port among processes")
    if not open_ledger(settings.ledger, patience=1.0).shared:
        raise SettingsError(
            f"--workers: the ledger {settings.ledger} is a file, which one process holds; several need one on Redis: "
            f"mtorl ledger move {settings.ledger} 'redis://HOST:PORT/0?name=NAME', then set `ledger` to that URL"
        )
    if settings.drills:
        raise SettingsError("--workers: drills are faults of one process; leave out `drills`, or --workers")


def _held(held: ExitStack, name: str, host: str, port: int) -> int:
    """Hold a port; which one that is."""
    try:
        return held.enter_context(held_port(host, port))
    except OSError as error:
        raise SettingsError(f"{name}: can't listen on {host}:{port}: {error.strerror or error}") from None


class _Process:
    """One worker, started again and again.

    Args:
        worker: Which one.
        settings: Its settings.
    """

    def __init__(self, worker: Worker, settings: RouterSettings) -> None:
        self._worker = worker
        self._settings = settings
        self._process: subprocess.Popen[str] | None = None
        self._began = self._due = 0.0
        self._pause = _FIRST_PAUSE

    def look(self) -> int | None:
        """Start it when that is due; its exit code if it has ended since the last look."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._due:
                self._start()
            return None
        code = self._process.poll()
        if code is not None:
            self._process = None
            self._pause = _FIRST_PAUSE if now - self._began >= _LONG_SECONDS else self._pause
            self._due = now + self._pause
            log.error("worker %d ended with %d", self._worker.number, code)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            # The others answer meanwhile, the probes as well.
            self._worker = replace(self._worker, listens_at_once=False)
        return code

    def stop(self) -> None:
        """Ask it to end."""
        if self._process is not None:
            self._process.terminate()

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        return 0 if self._process is None else self._process.wait()

    def _start(self) -> None:
        self._began = time.monotonic()
        safe_path = ["-P"] if sys.flags.safe_path else []
        command = [sys.executable, *safe_path, "-m", "serving.router", "--worker", self._worker.text()]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, preexec_fn=before_exec)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as settings:
            settings.write(self._settings.text())
