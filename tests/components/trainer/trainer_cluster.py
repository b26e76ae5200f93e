"""An API server that knows TrainJobs, and what Kubeflow Trainer makes of them: pods, here processes of this machine.

    with TrainerCluster() as cluster:
        cluster.use(monkeypatch)         # the kubernetes client talks to it
        cluster.play = cluster.run_pods  # or any function that says what becomes of a job

Pods run the job's own command, with the variables that Trainer's policy for torch sets, and are started again like
containers of a Job.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

Object = dict[str, Any]
JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/mine/trainjobs"
PODS = "/api/v1/namespaces/mine/pods"
_RESTARTS = 6  # a Job's backoffLimit


class TrainerCluster(ThreadingHTTPServer):
    """The namespace "mine"."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Requests)
        self.jobs: dict[str, Object] = {}
        self.pods: list[Object] = []
        self.logs: dict[str, str] = {}
        self.created: list[Object] = []
        self.deleted: list[str] = []
        self.asked: list[tuple[str, str]] = []  # verb and path
        self.broken: dict[tuple[str, str], list[int]] = {}  # by verb and start of a path: the next answers' codes
        self.processes: list[subprocess.Popen[str]] = []
        self.play: Callable[[Object], None] = lambda job: None
        self._playing: list[threading.Thread] = []

    def __enter__(self) -> TrainerCluster:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.jobs.clear()
        self._stop()
        self.shutdown()
        self.server_close()

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the kubernetes client of this process find it."""
        from kubernetes import client, config

        there = client.Configuration()
        there.host = f"http://127.0.0.1:{self.server_address[1]}"
        monkeypatch.setattr(client.Configuration, "_default", there)
        monkeypatch.setattr(config, "load_kube_config", lambda: None)
        monkeypatch.setenv("MTORL_NAMESPACE", "mine")

    def begin(self, job: Object) -> None:
        """A job that was made."""
        self.jobs[job["metadata"]["name"]] = job
        self.created.append(json.loads(json.dumps(job)))
        thread = threading.Thread(target=self.play, args=(job,), daemon=True)
        thread.start()
        self._playing.append(thread)

    def end(self, job: Object, kind: str, reason: str = "AllJobsCompleted", message: str = "jobset completed") -> None:
        """Say in its conditions that it is over."""
        said = {"status": "True", "reason": reason, "message": message, "lastTransitionTime": "2026-11-29T00:00:00Z"}
        job.setdefault("status", {})["conditions"] = [{"type": kind, **said}]

    def remove(self, name: str) -> None:
        """A job, and its pods."""
        self.deleted.append(name)
        self.jobs.pop(name, None)
        self._stop()

    def run_pods(self, job: Object) -> None:
        """Run the job's command on as many nodes as it wants, each a process of this machine."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
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


class _Requests(BaseHTTPRequestHandler):
    server: TrainerCluster

    def log_message(self, format: str, *args: Any) -> None: ...

    def _answer(self, status: int, content: Object | str) -> None:
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refused(self) -> bool:
        path = urlsplit(self.path).path
        self.server.asked.append((self.command, path))
        for (verb, start), codes in self.server.broken.items():
            if verb == self.command and path.startswith(start) and codes:
                self._answer(codes.pop(0), {"message": f"{verb} is not allowed"})
                return True
        return False

    def _body(self) -> Object:
        return dict(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def do_POST(self) -> None:
        job = self._body()
        if self._refused():
            return
        if job["metadata"]["name"] in self.server.jobs:
            self._answer(409, {"message": "already exists"})
        else:
            self.server.begin(job)
            self._answer(201, job)

    def do_GET(self) -> None:
        if self._refused():
            return
        url = urlsplit(self.path)
        name = Path(url.path).name
        if url.path == PODS:
            (selector,) = parse_qs(url.query)["labelSelector"]
            assert selector.split("=")[0] == "jobset.sigs.k8s.io/jobset-name"
            self._answer(200, {"items": self.server.pods})
        elif name == "log":
            log = self.server.logs.get(Path(url.path).parent.name)
            self._answer(400 if log is None else 200, {"message": "not started"} if log is None else log)
        elif name in self.server.jobs:
            self._answer(200, self.server.jobs[name])
        else:
            self._answer(404, {"message": "not found"})

    def do_DELETE(self) -> None:
        if self._refused():
            return
        self.server.remove(Path(urlsplit(self.path).path).name)
        self._answer(200, {})
