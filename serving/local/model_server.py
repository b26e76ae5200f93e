"""The common part of both model runtimes: a child process that serves the models of a folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from serving.local.child_process import ChildProcess


class ModelServer(ABC):
    """A server of every .mar of a folder, each named after its file.

    Args:
        workdir: Folder for its log and its temporary files.
        port: Of 127.0.0.1, where the models answer; 0: the server chooses a place.

    Attributes:
        inference_url: Where the models answer, once started.
    """

    title: ClassVar[str]
    error: ClassVar[type[RuntimeError]]

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
        """Start, and return when all models answer.

        Raises:
            RuntimeError: `error`: there is no model, or one that does not come up.
        """
        if self._process:
            return
        if not self.models:
            raise self.error(f"{self.model_store}: no .mar file to serve")
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
        """Raise its error, with the tail of the log, unless the server is running."""
        if self._process is None:
            raise self.error(f"{self.title} is not started")
        if not self._process.alive():
            raise self.error(f"{self.title} has ended; {self._process.tail()}")
