"""Runs the router as a process, with arms in the test's process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from serving.local.ports import free_ports
from serving.logs import messages
from tests.repository import ROOT
from tests.serving.router_fixtures import FakeArm, write_settings


class Process:
    def __init__(self, folder: Path, ready: bool = True, **settings: Any) -> None:
        self.folder = folder
        self.ready = ready
        self.arm = FakeArm()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.endpoint = self._in_thread(self.arm.start())
        self.config = write_settings(folder, self.endpoint, {}, port=free_ports(1)[0], **settings)

    def _in_thread(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def __enter__(self) -> Process:
        command = [sys.executable, "-m", "serving.router", "--run-config", str(self.folder / "router.yaml")]
        self._log = self.folder / "router.log"
        with self._log.open("wb") as log:
            self.router = subprocess.Popen(command, cwd=ROOT, stderr=log)
        self._messages = messages(follow(self._log, lambda: self.router.poll() is not None))
        self.url = self.said("router listens http://127.0.0.1:")
        if self.ready:
            self.said("router ready http://127.0.0.1:")
        return self

    def said(self, start: str) -> str:
        message = next((one for one in self._messages if one.startswith(start)), None)
        assert message is not None, self._log.read_text()
        return message.split()[-1]

    def __exit__(self, *exc_info: object) -> None:
        self.router.kill()
        self.router.wait()
        self._in_thread(self.arm.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def let_arms_answer(self) -> None:
        self._loop.call_soon_threadsafe(self.arm.release.set)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=120, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=120, **options)

    def predict(self, *instances: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
        response = self.post("/v1/models/ads:predict", json={"instances": instances}, **options)
        assert response.status_code == 200, response.text
        predictions: list[dict[str, Any]] = response.json()["predictions"]
        return predictions


def follow(path: Path, ended: Callable[[], bool]) -> Iterator[str]:
    with path.open() as file:
        line = ""
        while True:
            last = ended()
            line += file.readline()
            if line.endswith("\n"):
                yield line
                line = ""
            elif last:
                return
            else:
                time.sleep(0.02)
