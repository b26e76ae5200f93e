from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx

from serving.local.ports import free_ports
from tests.cluster.kubectl import Object
from tests.repository import ROOT
from tests.serving.router_fixtures import SPEC
from tests.waiting import eventually


class OperatorProcess:
    """A process of `mtorl experiment operator` that a test can kill and restart."""

    def __init__(self, namespace: str, folder: Path, config: Path | None = None) -> None:
        self.url = f"http://127.0.0.1:{free_ports(1)[0]}"
        self._folder = folder
        self._environment = {**os.environ, **({} if config is None else {"KUBECONFIG": str(config)})}
        SPEC.save(folder / "dataset.yaml")
        self._command = [sys.executable, "-m", "cli.main", "experiment", "operator", "--namespace", namespace]
        self._command += ["--dataset", str(folder / "dataset.yaml"), "--lake", str(folder / "lake"), "--every", "1"]
        self._command += ["--port", self.url.rpartition(":")[2]]

    def start(self) -> None:
        with (self._folder / "operator.log").open("ab") as log:
            self.process = subprocess.Popen(self._command, cwd=ROOT, env=self._environment, stderr=log, stdout=log)

    def wait(self) -> None:
        eventually(self.leads, 120, state=self.log)

    def log(self) -> str:
        return (self._folder / "operator.log").read_text()

    def leads(self) -> bool:
        return self._health().get("leads") is True

    def follows(self) -> bool:
        """Return whether the process is the leader or a standby."""
        return "leads" in self._health()

    def _health(self) -> Object:
        try:
            answer = httpx.get(f"{self.url}/health/ready", timeout=2)
        except httpx.HTTPError:
            return {}
        found: Object = answer.json()
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> OperatorProcess:
        self.start()
        self.wait()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
