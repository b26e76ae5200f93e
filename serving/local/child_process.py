"""Run a command so that it, and all that it starts, dies with the process that asked for it.

``Guarded(command, ...)`` starts a small guardian (this file, run as a script: standard library only) that leads a new
process group and starts the command in it. The guardian ends the group (SIGTERM, a grace period, SIGKILL) when it is
told to, when the command ends, or when its parent is gone, ``kill -9`` included. The new session keeps Ctrl-C at the
terminal away from the command: the parent gets it and stops the command in the order it wants.
"""

from __future__ import annotations

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


class Guarded:
    """A running command and the guardian in front of it.

    Args:
        command: What to run.
        log: File that its output is appended to.
        cwd: Its working directory.
        env: Its whole environment.
        grace: Seconds between SIGTERM and SIGKILL.
        scratch: Folder that the guardian removes at the end, whoever ended it.
        lock: Open file whose lock is to last as long as the guardian, should this process be killed.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        cwd: Path,
        env: Mapping[str, str],
        grace: float = 10.0,
        scratch: Path | None = None,
        lock: int | None = None,
    ) -> None:
        self._grace = grace
        self._stopped = False
        self._log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        guardian = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(grace), str(scratch or ""), *command]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                guardian,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=dict(env),
                start_new_session=True,
                pass_fds=() if lock is None else (lock,),
            )
        atexit.register(self.stop)

    @property
    def pid(self) -> int:
        """Pid of the guardian, which is also the id of the process group."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether the command still runs."""
        return self._process.poll() is None

    def output(self) -> str:
        """What the command has written so far."""
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
        self._process.terminate()  # does nothing to a guardian that has ended
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self._grace + 5)
        # The guardian's last act was the same; this is for a guardian that was itself killed.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


def _before_exec() -> None:
    """In the command, before exec: take signals again, and die with the guardian should that be killed."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _guard(parent: int, grace: float, scratch: str, command: list[str]) -> None:
    orders = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    # Blocked, not handled: the loop below takes them one by one, and the SIGTERM to the group spares the guardian.
    signal.pthread_sigmask(signal.SIG_BLOCK, orders | {signal.SIGCHLD})
    try:
        child = subprocess.Popen(command, preexec_fn=_before_exec)
    except OSError as error:
        print(f"guard: {command[0]} did not start: {error}", flush=True)
        return
    ordered = False
    while child.poll() is None and os.getppid() == parent and not ordered:
        caught = signal.sigtimedwait(orders | {signal.SIGCHLD}, _POLL_SECONDS)
        ordered = caught is not None and caught.si_signo in orders
    if child.poll() is None:
        os.killpg(0, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace)
    elif not ordered:
        print(f"guard: {command[0]} ended by itself with status {child.returncode}", flush=True)
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)  # whatever the command left behind, and the guardian


if __name__ == "__main__":
    _guard(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:])
