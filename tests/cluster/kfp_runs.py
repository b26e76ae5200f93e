"""Runs on a real Kubeflow Pipelines, and programs on the volume that their steps mount, for tests."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.cluster.schedule import KFP_EXPERIMENT
from tests.cluster.kubectl import Object, kubectl, listed, wait_until
from tests.manifests.conftest import MANIFESTS

CLAIM = "mtorl-data"
NEEDED = ("KUBECONFIG", "KFP_ENDPOINT", "KFP_NAMESPACE", "KFP_EXISTING_TOKEN", "MTORL_IMAGE")
MINUTES = 600  # seconds in which a step of a run comes, on a small machine
OURS = {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
LIST = """
import sys
from pathlib import Path
print(*sorted(path.name for path in Path("/mnt/mtorl").glob(sys.argv[1])))
"""
# A log as a shop has it: not the simulator's, though it is made of its users.
WRITE_LOG = """
import sys
import pandas as pd
from mtorl.log.dataset import DatasetSpec
from mtorl.simulator.simulator import Simulator, SimulatorConfig
log = Simulator(SimulatorConfig(users=int(sys.argv[1]), seed=int(sys.argv[2]))).log()
log.loc[log.index[5], "cost"] += float(sys.argv[3])
log.to_parquet("/mnt/mtorl/touchpoints.parquet", index=False)
DatasetSpec.load("simulator").replace(adapter="touchpoints", name="shop").save("/mnt/mtorl/dataset.yaml")
"""


def in_namespace(*arguments: str, stdin: str | None = None) -> str:
    return kubectl("-n", os.environ["KFP_NAMESPACE"], *arguments, stdin=stdin)


def platform(namespace: str) -> str:
    """What a namespace needs that runs the pipelines, as the page says it of another one than mtorl."""
    rendered = kubectl("kustomize", str(MANIFESTS / "pipelines" / "platform"))
    return rendered.replace("namespace: mtorl\n", f"namespace: {namespace}\n")


def made(kind: str, name: str, **content: Any) -> str:
    return json.dumps({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **content})


@contextmanager
def empty_volume() -> Iterator[None]:
    """The claim that every step mounts, which goes at the end."""
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    in_namespace("create", "-f", "-", stdin=made("PersistentVolumeClaim", CLAIM, spec=claim))
    try:
        yield
    finally:
        delete_mounting()
        in_namespace("delete", "pvc", CLAIM)


def delete_mounting() -> None:
    """Delete the pods that mount the claim, ended ones too: it goes once they have."""
    pods = listed(os.environ["KFP_NAMESPACE"], "pod")
    mounting = [pod["metadata"]["name"] for pod in pods if f'"claimName": "{CLAIM}"' in json.dumps(pod["spec"])]
    if mounting:
        in_namespace("delete", "pod", "--ignore-not-found", *mounting)


def volume_pod(name: str, image: str, command: list[str], container: Object, **spec: Any) -> Object:
    """A pod that mounts the volume and ends; with more fields of its container and its own."""
    main = {
        "name": "main",
        "image": image,
        "command": command,
        "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "data", "mountPath": "/mnt/mtorl"}],
    }
    # The first pod that mounts a volume gives it to its group; steps, for which KFP has no fsGroup, come in by it.
    whole = {
        "restartPolicy": "Never",
        "securityContext": {**OURS, "fsGroup": 10001, "fsGroupChangePolicy": "OnRootMismatch"},
        "containers": [main | container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": CLAIM}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": whole | spec}


def on_volume(code: str, *arguments: str) -> str:
    """Run Python with the project's code in a pod that mounts the volume; returns what it printed."""
    pod = volume_pod("mtorl-test", os.environ["MTORL_IMAGE"], ["python", "-c", code, *arguments], {})
    in_namespace("create", "-f", "-", stdin=json.dumps(pod))
    try:
        phase = wait_until("the pod to end", lambda: phase_of("mtorl-test"), MINUTES)
        printed = in_namespace("logs", "mtorl-test")
        assert phase == "Succeeded", printed
        return printed
    finally:
        in_namespace("delete", "pod", "mtorl-test")


def phase_of(pod: str) -> str:
    """How a pod has ended; empty while it has not."""
    phase = in_namespace("get", "pod", pod, "-o", "jsonpath={.status.phase}")
    return phase if phase in ("Succeeded", "Failed") else ""


@dataclass(frozen=True)
class Run:
    """How far a run is."""

    id: str
    state: str
    steps: dict[str, str]  # of each that has begun, by name: CACHED is one that was answered from an earlier run

    @property
    def ended(self) -> bool:
        return self.state in ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")


def look(client: Any, run_id: str) -> Run:
    """A run and its steps: the API lists a step, its driver and its container, called "executor", as tasks."""
    run = client.get_run(run_id)
    tasks = list((run.run_details.task_details if run.run_details else None) or [])
    names = {task.display_name for task in tasks}
    skipped = {task.start_time for task in tasks if task.display_name == "executor" and task.state == "SKIPPED"}
    steps = {}
    for task in tasks:
        if task.display_name != "root" and f"{task.display_name}-driver" in names:
            short = task.start_time in skipped and (task.end_time - task.start_time).total_seconds() < 2
            cached = task.state == "SUCCEEDED" and short  # a pod takes longer than that to start
            steps[task.display_name] = "CACHED" if cached else str(task.state or "NOT RUN")
    return Run(run_id, run.state or "PENDING", steps)


def started(client: Any, pipeline: Path, parameters: Mapping[str, Any]) -> str:
    run = client.create_run_from_pipeline_package(
        str(pipeline), arguments=dict(parameters), experiment_name=KFP_EXPERIMENT, namespace=os.environ["KFP_NAMESPACE"]
    )
    return str(run.run_id)


def ended(client: Any, pipeline: Path, parameters: Mapping[str, Any]) -> Run:
    return end_of(client, started(client, pipeline, parameters))


def end_of(client: Any, run_id: str) -> Run:
    state = partial(look, client, run_id)
    return wait_until(f"run {run_id}", lambda: run if (run := state()).ended else None, 1200, lambda: str(state()))


def pod_of(run_id: str, step: str) -> str:
    """The newest running pod of a step; empty if there is none."""
    pods = listed(os.environ["KFP_NAMESPACE"], "pod", f"pipeline/runid={run_id}")
    names = [
        pod["metadata"]["name"]
        for pod in sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"])
        if f".{step}(0).executor(" in pod["metadata"]["annotations"]["workflows.argoproj.io/node-name"]
        and pod["status"]["phase"] != "Pending"
    ]
    return names[-1] if names else ""


def log_of(run_id: str, step: str) -> str:
    pod = pod_of(run_id, step)
    return in_namespace("logs", pod, "-c", "main") if pod else ""
