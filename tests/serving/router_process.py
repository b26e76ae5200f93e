"""The router as a process of its own, in front of arms that live in the test."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx

from serving.local.ports import free_ports
from tests.repository import ROOT
from tests.serving.router_fixtures import FakeArm, write_settings


class Process:
    """`python -m serving.router` with a real Feast repository and arms that live in a thread of the test."""

    def __init__(self, folder: Path, ready: bool = True, **settings: Any) -> None:
        self.folder = folder
        self.ready = ready
        self.arm = FakeArm()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.config = write_settings(folder, self._in_thread(self.arm.start()), {}, port=free_ports(1)[0], **settings)

    def _in_thread(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def __enter__(self) -> Process:
        command = [sys.executable, "-m", "serving.router", "--run-config", str(self.folder / "router.yaml")]
        with (self.folder / "router.log").open("wb") as log:
            self.router = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.router.stdout is not None
        self.url = self.said("router listens http://127.0.0.1:")
        if self.ready:
            self.said("router ready http://127.0.0.1:")
        return self

    def said(self, start: str) -> str:
        """The last word of the next line that the router writes."""
        assert self.router.stdout is not None
        line = self.router.stdout.readline()
        assert line.startswith(start), (self.folder / "router.log").read_text()
        return line.split()[-1]

    def __exit__(self, *exc_info: object) -> None:
        self.router.kill()
        self.router.communicate()
        self._in_thread(self.arm.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def let_arms_answer(self) -> None:
        self._loop.call_soon_threadsafe(self.arm.release.set)

    def predict(self, *instances: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
        response = httpx.post(
            f"{self.url}/v1/models/ads:predict", json={"instances": instances}, timeout=120, **options
        )
        assert response.status_code == 200, response.text
        predictions: list[dict[str, Any]] = response.json()["predictions"]
        return predictions
