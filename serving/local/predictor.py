"""The models of a folder on KServe's own server, in one child process: the runtime without Java.

    with LocalPredictor("run/model-store", "run/serving/predictor") as server:
        server.endpoint("challenger")      # on a Unix socket; or on a port, if one is given

A stack takes it or `TorchServe`: both have the same methods, and their answers are equal.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import sys
import time
import zipfile
from pathlib import Path
from typing import Self
from urllib.parse import quote

from mtorl.experiment.arm import UNIX
from serving.local.child_process import ChildProcess
from serving.local.torchserve import temporary_folder

_START_SECONDS = 60.0


class PredictorError(RuntimeError):
    """The predictor did not start, or is no longer there; the message ends with the tail of its log."""


class LocalPredictor:
    """A server of every .mar of a folder.

    Args:
        model_store: Folder with the .mar files; a model is named after its file.
        workdir: Folder for its log (`predictor.log`) and its temporary files.
        port: Of 127.0.0.1, where the models answer; 0: on a Unix socket.
    """

    def __init__(self, model_store: str | Path, workdir: str | Path, port: int = 0) -> None:
        self.model_store = Path(model_store).resolve()
        self.workdir = Path(workdir).resolve()
        self._port = port
        self._socket = ""
        self._process: ChildProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def models(self) -> tuple[str, ...]:
        """What it serves, or would serve if it were started now."""
        return tuple(sorted(mar.stem for mar in self.model_store.glob("*.mar")))

    @property
    def inference_url(self) -> str:
        """Where the models answer."""
        return f"http://127.0.0.1:{self._port}" if self._port else f"{UNIX}://{quote(self._socket, safe='')}"

    @property
    def pid(self) -> int | None:
        """Id of its process group, None when it is not started."""
        return self._process.pid if self._process else None

    def endpoint(self, model: str) -> str:
        """URL that answers a model's decisions."""
        return f"{self.inference_url}/v1/models/{model}:predict"

    def start(self) -> None:
        """Start, and return when all models answer.

        Raises:
            PredictorError: No model, or one that can't be read or does not come up.
        """
        if self._process:
            return
        if not self.models:
            raise PredictorError(f"{self.model_store}: no .mar file to serve")
        self.workdir.mkdir(parents=True, exist_ok=True)
        scratch = temporary_folder(self.workdir)
        try:
            command = self._command(scratch)
        except PredictorError:
            shutil.rmtree(scratch)  # else the process removes it at its end
            raise
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        log = self.workdir / "predictor.log"
        self._process = ChildProcess(command, log=log, env=environment, scratch=scratch)
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not self._is_ready():
                self.check()
                if time.monotonic() > deadline:
                    raise PredictorError(f"no answer in {_START_SECONDS:.0f} s; {self._process.tail()}")
                time.sleep(0.05)
        except BaseException:  # Ctrl-C as well
            self.stop()
            raise

    def stop(self) -> None:
        """End it. Harmless when done twice."""
        if self._process:
            self._process.stop()
            self._process = None

    def check(self) -> None:
        """Raise PredictorError, with the tail of the log, unless the server is running."""
        if self._process is None:
            raise PredictorError("the predictor is not started")
        if not self._process.alive():
            raise PredictorError(f"the predictor has ended; {self._process.tail()}")

    def _command(self, scratch: Path) -> list[str]:
        self._socket = str(scratch / "models")
        where = ["--host", "127.0.0.1", "--port", str(self._port)] if self._port else ["--host", self._socket]
        command = [sys.executable, "-P", "-m", "serving.predictor", *where]
        for model in self.models:
            command += ["--name", model, "--artifact", str(_unpacked(self.model_store / f"{model}.mar", scratch))]
        return command

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port or None, timeout=2)
        try:
            if not self._port:
                connection.sock = socket.socket(socket.AF_UNIX)
                connection.sock.settimeout(2)
                connection.sock.connect(self._socket)
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def _unpacked(archive: Path, scratch: Path) -> Path:
    """The artifact in a .mar file, as a folder."""
    folder = scratch / archive.stem
    try:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder, [name for name in packed.namelist() if name.startswith("artifact/")])
    except (OSError, zipfile.BadZipFile) as error:
        raise PredictorError(f"{archive}: not a model's archive ({error})") from None
    return folder / "artifact"
