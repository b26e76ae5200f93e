"""Runs the models of a folder on KServe's own server in one child process, without Java."""

import os
import shutil
import sys
import zipfile
from pathlib import Path
from urllib.parse import quote

from typing_extensions import override

from mtorl.runtime.http import UNIX, send_request
from serving.local.child_process import ChildProcess
from serving.local.model_server import ModelServer, StackError, wait_until
from serving.local.torchserve import temporary_folder

_START_SECONDS = 60.0


class LocalPredictor(ModelServer):
    """A model server that runs KServe's own server."""

    title = "the predictor"

    @override
    def _start(self) -> None:
        scratch = temporary_folder(self.workdir)
        try:
            command = self._command(scratch)
        except StackError:
            shutil.rmtree(scratch)  # the supervisor of a started process deletes this folder
            raise
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        log = self.workdir / "predictor.log"
        self._process = process = ChildProcess(command, log=log, env=environment, scratch=scratch)
        late = f"no answer in {_START_SECONDS:.0f} s"
        wait_until(self._is_ready, self.check, _START_SECONDS, lambda: f"{late}; {process.tail()}")

    def _command(self, scratch: Path) -> list[str]:
        path = str(scratch / "models")
        where = ["--host", "127.0.0.1", "--port", str(self._port)] if self._port else ["--host", path]
        self.inference_url = f"http://127.0.0.1:{self._port}" if self._port else f"{UNIX}://{quote(path, safe='')}"
        command = [sys.executable, "-P", "-m", "serving.predictor", *where]
        for model in self.models:
            command += ["--name", model, "--artifact", str(_unpacked(self.model_store / f"{model}.mar", scratch))]
        return command

    def _is_ready(self) -> bool:
        try:
            send_request(f"{self.inference_url}/v2/health/ready", seconds=2)
        except OSError:
            return False
        return True


def _unpacked(archive: Path, scratch: Path) -> Path:
    folder = scratch / archive.stem
    try:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder, [name for name in packed.namelist() if name.startswith("artifact/")])
    except (OSError, zipfile.BadZipFile) as error:
        raise StackError(f"{archive}: not a model's archive ({error})") from None
    return folder / "artifact"
