"""Runs a command that stops, with all its descendants, when its parent process ends or is killed.

This file also is the script of the supervisor, a process that stops the command.
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

_POLL_SECONDS = 0.25  # between two checks whether the parent process still runs
_PR_SET_PDEATHSIG = 1  # from linux/prctl.h


class ChildProcess:
    """A running command, together with a supervisor process that stops it.

    Args:
        log: File for the command's output, in the command's working directory.
        scratch: Folder that the supervisor deletes after the command has stopped.
        lock: Descriptor of a file that stays locked until the supervisor exits.
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
        """Process id of the supervisor and of the process group."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether the command still runs."""
        return self._process.poll() is None

    def output(self) -> str:
        """Return the command's output so far."""
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def tail(self, lines: int = 25) -> str:
        """Return the last lines of the command's output."""
        return "\n".join([f"the end of {self._log}:", *self.output().splitlines()[-lines:]])

    def stop(self) -> None:
        """Stop the command and its descendants; idempotent."""
        if self._stopped:
            return
        self._stopped = True
        atexit.unregister(self.stop)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self._grace + 5)
        # The supervisor may have been killed before it could kill the group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


def _before_exec() -> None:
    """Unblock signals, and let the kernel kill the child process if the supervisor dies."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _supervise(parent: int, grace: float, scratch: str, command: list[str]) -> None:
    stop_signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    # A SIGTERM to the group must not stop the supervisor itself.
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
        print(f"supervisor: {command[0]} exited with status {child.returncode}", flush=True)
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)  # kills also descendants of the command, and this supervisor


if __name__ == "__main__":
    _supervise(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:])
