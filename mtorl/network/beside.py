"""A training in a process of its own, beside this one, with the bits that it would have here.

    with Beside(data, config, checkpoint, on_epoch) as other:
        result = train(data, another_config)    # meanwhile, in this process
        other.tell()                            # now and then: what the other has come to
        both = [result, other.result()]

A network is too small to share out among threads (`parallel.py`), but two networks train on two processors as fast as
one. The process is a fresh one, which reads its training from its input and ends with it: if this process is killed,
so is that one.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import IO, Any

from mtorl.network.checkpoint import Checkpoint
from mtorl.network.parallel import TrainingFailed, one_thread
from mtorl.network.training import TrainConfig, TrainResult, train
from mtorl.window.loader import TrainingWindows


def processors() -> int:
    """How many this process may use: those of the machine, or fewer if OMP_NUM_THREADS says so."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    present = len(os.sched_getaffinity(0))
    return min(int(said), present) if said.isdecimal() and int(said) else present


class Beside:
    """A training elsewhere on this machine, on its CPU.

    Args:
        data: Windows to train and to validate on.
        config: How to train.
        resume: As of `train`.
        on_epoch: Called with the epoch's history row, by `tell` and `result`.
    """

    def __init__(
        self,
        data: TrainingWindows,
        config: TrainConfig,
        resume: Checkpoint | None,
        on_epoch: Callable[[dict[str, float]], None],
    ) -> None:
        self._on_epoch = on_epoch
        self._result: TrainResult | None = None
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
        )
        self._talking = threading.Thread(target=self._talk, args=((data, config, resume),), daemon=True)
        self._talking.start()

    def __enter__(self) -> Beside:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the training, if it has not ended."""
        self._process.kill()
        self._talking.join()
        assert self._process.stdin is not None
        with suppress(OSError):  # what was still to be written goes nowhere
            self._process.stdin.close()
        with self._process:  # closes its output
            pass

    def tell(self) -> None:
        """Tell of the epochs that are over by now.

        Raises:
            Exception: What the training has raised.
            TrainingFailed: Its process was killed.
        """
        while not self._messages.empty():
            self._take(self._messages.get())

    def result(self) -> TrainResult:
        """Wait for the end of the training.

        Raises:
            Exception: What the training has raised.
            TrainingFailed: Its process was killed.
        """
        while self._result is None:
            self._take(self._messages.get())
        return self._result

    def _take(self, message: Any) -> None:
        if isinstance(message, Exception):
            raise message
        if isinstance(message, TrainResult):
            self._result = message
        else:
            self._on_epoch(message)

    def _talk(self, training: Any) -> None:
        """Hand the training over, and pass on what comes of it."""
        asked, told = self._process.stdin, self._process.stdout
        assert asked is not None and told is not None, "both are pipes"
        try:
            pickle.dump(training, asked)
            asked.flush()
            message = None
            while not isinstance(message, TrainResult | Exception):
                message = pickle.load(told)  # from our own process
                self._messages.put(message)
            return
        except (EOFError, OSError):
            status = self._process.wait()
        except Exception as error:
            self._process.kill()
            self._messages.put(TrainingFailed(f"what was trained beside this process can't be read: {error!r}"))
            return
        lost = f"the process that trained beside this one ended with status {status}"
        if status == -signal.SIGKILL:
            lost += ": memory was short; give the step more, or lower batch_size"
        self._messages.put(TrainingFailed(lost))


def _train_here(asked: IO[bytes], told: IO[bytes]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever waits for the result ends this process
    data, config, resume = pickle.load(asked)  # from our own process
    threading.Thread(target=_end_with, args=(asked,), daemon=True).start()

    def tell(message: object) -> None:
        pickle.dump(message, told)
        told.flush()

    try:
        with one_thread():
            result: object = train(data, config, tell, resume=resume)
    except Exception as error:
        result = error
    tell(result)


def _end_with(asked: IO[bytes]) -> None:
    """End when whoever asked has ended."""
    os.read(asked.fileno(), 1)  # a thread that waits for a buffer would be a fatal error at this process's own end
    os._exit(1)


if __name__ == "__main__":
    # What anybody prints must not get between the messages.
    _told = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _train_here(sys.stdin.buffer, _told)
