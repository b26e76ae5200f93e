"""A fake Kubeflow Trainer: TrainJobs are kept in memory, and their pods are local processes.

A failed process is restarted, like a container of a Job.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from serving.kubernetes_api import Conflict, KubernetesApi, Refused
from serving.local.ports import free_ports

Object = dict[str, Any]
_RESTARTS = 6  # a Job's backoffLimit


class TrainerCluster(KubernetesApi):
    """A fake API server for a training step.

    `refused` maps a method, such as "get", to the HTTP status with which it is refused.
    """

    def __init__(self) -> None:
        self.namespace = "mine"
        self.jobs: dict[str, Object] = {}
        self.pods: list[Object] = []
        self.logs: dict[str, str] = {}
        self.created: list[Object] = []
        self.deleted: list[str] = []
        self.asked: list[str] = []  # "get", "list" ...
        self.refused: dict[str, int] = {}
        self.processes: list[subprocess.Popen[str]] = []
        self.play: Callable[[Object], None] = lambda job: None

    def __enter__(self) -> TrainerCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.jobs.clear()
        self._stop()

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("components.trainer.train.KubernetesApi", lambda *_, **__: self)

    def begin(self, job: Object) -> None:
        self.jobs[job["metadata"]["name"]] = job
        self.created.append(json.loads(json.dumps(job)))
        threading.Thread(target=self.play, args=(job,), daemon=True).start()

    def end(self, job: Object, kind: str, reason: str = "AllJobsCompleted", message: str = "jobset completed") -> None:
        said = {"status": "True", "reason": reason, "message": message, "lastTransitionTime": "2026-11-29T00:00:00Z"}
        job.setdefault("status", {})["conditions"] = [{"type": kind, **said}]

    def get(self, kind: str, name: str) -> Object | None:
        self._ask_for("get")
        found = self.jobs.get(name)
        return None if found is None else dict(json.loads(json.dumps(found)))

    def create(self, kind: str, body: Any) -> Object:
        self._ask_for("create")
        if body["metadata"]["name"] in self.jobs:
            raise Conflict("already exists")
        self.begin(body)
        return dict(body)

    def delete(self, kind: str, name: str) -> None:
        self._ask_for("delete")
        self.deleted.append(name)
        self.jobs.pop(name, None)
        self._stop()

    def list(self, kind: str, selector: str = "") -> Any:
        assert kind == "pods" and selector.split("=")[0] == "jobset.sigs.k8s.io/jobset-name"
        self._ask_for("list")
        return self.pods

    def log(self, pod: str, lines: int) -> str:
        if pod not in self.logs:
            raise Refused(400, "not started")
        return self.logs[pod]

    def _ask_for(self, what: str) -> None:
        self.asked.append(what)
        if what in self.refused:
            raise Refused(self.refused[what], f"{what} is not allowed")

    def run_pods(self, job: Object) -> None:
        (port,) = free_ports(1)
        trainer, ended = job["spec"]["trainer"], list[int]()

        def node(rank: int) -> None:
            given = {one["name"]: one["value"] for one in trainer["env"]}
            given |= {"PET_NNODES": str(trainer["numNodes"]), "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"])}
            given |= {"PET_NODE_RANK": str(rank), "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port)}
            command = [sys.executable, *trainer["command"][1:], *trainer["args"]]
            for attempt in range(_RESTARTS + 1):
                time.sleep(min(attempt, 3))
                if job["metadata"]["name"] not in self.jobs:
                    return
                process = subprocess.Popen(command, env={**os.environ, **given}, stderr=subprocess.PIPE, text=True)
                self.processes.append(process)
                said = process.communicate()[1]
                self.logs[f"node-{rank}"] = self.logs.get(f"node-{rank}", "") + said
                if process.returncode == 0:
                    break
            ended.append(process.returncode)

        nodes = [threading.Thread(target=node, args=(rank,), daemon=True) for rank in range(trainer["numNodes"])]
        for thread in nodes:
            thread.start()
        for thread in nodes:
            thread.join()
        if any(ended):
            self.end(job, "Failed", "FailedJobs", "jobset failed due to one or more job failures")
        elif ended:
            self.end(job, "Complete")

    def _stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            process.wait()
