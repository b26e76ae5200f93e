"""Runs a command that ends with its parent, even a killed one, and all processes that it has started.

`ChildProcess(command, ...)` starts a small supervisor (this file, run as a script; it needs the standard library only),
which leads a new process group and starts the command in it. The supervisor ends the group (SIGTERM, a grace period,
SIGKILL) on SIGTERM, when the command ends, or when its parent is gone, `kill -9` included. The group is a session of
its own, so Ctrl-C at the terminal does not reach the command: the parent stops its commands in the order that it wants.
"""

import atexit
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_POLL_SECONDS = 0.25  # how soon a killed parent is noticed
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class ChildProcess:
    """A running command and its supervisor.

    Args:
        log: File that its output is appended to; its folder is the command's working directory.
        scratch: Folder that the supervisor removes at the end.
        lock: Open file whose lock is to last as long as the supervisor, should this process be killed.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str],
        grace: float = 10.0,
        scratch: Path | None = None,
        lock: int | None = None,
    ) -> None:
        self._grace = grace
        self._stopped = False
        self._log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        supervisor = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(grace), str(scratch or ""), *command]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                supervisor,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                env=dict(env),
                start_new_session=True,
                pass_fds=() if lock is None else (lock,),
            )
        atexit.register(self.stop)

    @property
    def pid(self) -> int:
        """Pid of the supervisor, which is also the id of the process group."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether the command still runs."""
        return self._process.poll() is None

    def output(self) -> str:
        """The command's output so far."""
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def tail(self, lines: int = 25) -> str:
        """The end of its output, for an error message."""
        return "\n".join([f"the end of {self._log}:", *self.output().splitlines()[-lines:]])

    def stop(self) -> None:
        """End the command and all that it started. Harmless when done twice."""
        if self._stopped:
            return
        self._stopped = True
        atexit.unregister(self.stop)
        self._process.terminate()  # does nothing to a supervisor that has ended
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self._grace + 5)
        # The supervisor has done the same as its last act; this is for a supervisor that was itself killed.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


def _before_exec() -> None:
    """Prepare a child before exec: handle signals again, and die with the process that started it."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _supervise(parent: int, grace: float, scratch: str, command: list[str]) -> None:
    stop_signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    # Blocked signals are taken by the loop below, and a SIGTERM to the group does not end the supervisor itself.
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals | {signal.SIGCHLD})
    try:
        child = subprocess.Popen(command, preexec_fn=_before_exec)
    except OSError as error:
        print(f"supervisor: {command[0]} did not start: {error}", flush=True)
        return
    asked_to_stop = False
    while child.poll() is None and os.getppid() == parent and not asked_to_stop:
        caught = signal.sigtimedwait(stop_signals | {signal.SIGCHLD}, _POLL_SECONDS)
        asked_to_stop = caught is not None and caught.si_signo in stop_signals
    if child.poll() is None:
        os.killpg(0, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace)
    elif not asked_to_stop:
        print(f"supervisor: {command[0]} ended by itself with status {child.returncode}", flush=True)
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)  # all processes that the command left behind, and the supervisor


if __name__ == "__main__":
    _supervise(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:])
