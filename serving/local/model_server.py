"""The base class of the local model servers."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Self

from serving import messages
from serving.local.child_process import ChildProcess


class StackError(RuntimeError):
    """Raised if a server did not start or has stopped."""


def wait_until(ready: Callable[[], bool], check: Callable[[], None], seconds: float, late: Callable[[], str]) -> None:
    """Call `check()` repeatedly until `ready()` is true. An error that `check()` raises ends the wait.

    After `seconds`, StackError is raised with the text that `late()` returns.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        check()
        if time.monotonic() > deadline:
            raise StackError(late())
        time.sleep(0.05)


class ModelServer(ABC):
    """A server of all .mar files in a folder. A file's name is its model's name.

    Args:
        workdir: Folder for logs and temporary files.
        port: Port of the models on 127.0.0.1. If it is 0, they answer on a Unix socket.
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
        """Names of the models that are in the folder at present."""
        return tuple(sorted(mar.stem for mar in self.model_store.glob("*.mar")))

    @property
    def pid(self) -> int | None:
        """Id of the server's process group; None if it is not running."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the server, and wait until all models answer; raises StackError."""
        if self._process:
            return
        if not self.models:
            raise StackError(f"{self.model_store}: no .mar file to serve")
        self.workdir.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:  # includes Ctrl-C
            self.stop()
            raise

    @abstractmethod
    def _start(self) -> None: ...

    def endpoint(self, model: str) -> str:
        """Return the URL for decisions of a model."""
        return f"{self.inference_url}/v1/models/{model}:predict"

    def stop(self) -> None:
        """Stop the server and its descendants; idempotent."""
        if self._process:
            self._process.stop()
            self._process = None

    def check(self) -> None:
        """Raise StackError with the end of the log if the server is not running."""
        if self._process is None:
            raise StackError(f"{self.title} is not started")
        if not self._process.alive():
            raise StackError(messages.ENDED(part=self.title, log=self._process.tail()))
