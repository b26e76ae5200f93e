"""The common part of both model runtimes: a child process that serves the models of a folder."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Self

from serving import messages
from serving.local.child_process import ChildProcess


class StackError(RuntimeError):
    """A server did not start, or is no longer there; the message says which and why, with the tail of its log."""


def wait_until(ready: Callable[[], bool], check: Callable[[], None], seconds: float, late: Callable[[], str]) -> None:
    """Return once `ready`; raises what `check` raises meanwhile, and StackError with `late` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not ready():
        check()
        if time.monotonic() > deadline:
            raise StackError(late())
        time.sleep(0.05)


class ModelServer(ABC):
    """A server of every .mar of a folder, each named after its file; its log and temporary files are in `workdir`.

    The models answer at `inference_url`, on `port` of 127.0.0.1; 0: on a Unix socket.
    """

    title: ClassVar[str]

    def __init__(self, model_store: str | Path, workdir: str | Path, port: int = 0) -> None:
        self.model_store = Path(model_store).resolve()
        self.workdir = Path(workdir).resolve()
        self._port = port
        self._process: ChildProcess | None = None
        self.inference_url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def models(self) -> tuple[str, ...]:
        """The models in the folder now."""
        return tuple(sorted(mar.stem for mar in self.model_store.glob("*.mar")))

    @property
    def pid(self) -> int | None:
        """Id of its process group, None before the start."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start, and return when all models answer; StackError if there is none, or one does not come up."""
        if self._process:
            return
        if not self.models:
            raise StackError(f"{self.model_store}: no .mar file to serve")
        self.workdir.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:  # Ctrl-C as well
            self.stop()
            raise

    @abstractmethod
    def _start(self) -> None: ...

    def endpoint(self, model: str) -> str:
        """URL that answers a model's decisions."""
        return f"{self.inference_url}/v1/models/{model}:predict"

    def stop(self) -> None:
        """End it and all that it has started. Harmless when done twice."""
        if self._process:
            self._process.stop()
            self._process = None

    def check(self) -> None:
        """Raise StackError, with the tail of the log, unless the server is running."""
        if self._process is None:
            raise StackError(f"{self.title} is not started")
        if not self._process.alive():
            raise StackError(messages.ENDED(part=self.title, log=self._process.tail()))
