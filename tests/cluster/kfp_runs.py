"""Helpers that run pipelines on a Kubeflow Pipelines server, and programs on its volume."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.cluster.schedule import KFP_EXPERIMENT
from tests.cluster.kubectl import Object, kubectl, listed
from tests.manifests.conftest import MANIFESTS
from tests.waiting import eventually

CLAIM = "mtorl-data"
NEEDED = ("KUBECONFIG", "KFP_ENDPOINT", "KFP_NAMESPACE", "KFP_EXISTING_TOKEN", "MTORL_IMAGE")
MINUTES = 600  # timeout in seconds, long enough for any step on a small machine
OURS = {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
LIST = """
import sys
from pathlib import Path
print(*sorted(path.name for path in Path("/mnt/mtorl").glob(sys.argv[1])))
"""
# The data set isn't named "simulator", so the pipeline treats the log like the log of a customer.
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
    rendered = kubectl("kustomize", str(MANIFESTS / "pipelines" / "platform"))
    return rendered.replace("namespace: mtorl\n", f"namespace: {namespace}\n")


def made(kind: str, name: str, **content: Any) -> str:
    return json.dumps({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **content})


@contextmanager
def empty_volume() -> Iterator[None]:
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    in_namespace("create", "-f", "-", stdin=made("PersistentVolumeClaim", CLAIM, spec=claim))
    try:
        yield
    finally:
        in_namespace("delete", "pvc", CLAIM, "--wait=false")
        eventually(claim_deleted, MINUTES)


def claim_deleted() -> bool:
    """Delete the pods that mount the claim; returns whether the claim is gone.

    A run in progress starts further pods, so call it again until it returns True.
    """
    delete_mounting()
    return CLAIM not in {claim["metadata"]["name"] for claim in listed(os.environ["KFP_NAMESPACE"], "pvc")}


def delete_mounting() -> None:
    """Delete all pods that mount the claim: even a finished pod blocks the deletion of the claim."""
    pods = listed(os.environ["KFP_NAMESPACE"], "pod")
    mounting = [pod["metadata"]["name"] for pod in pods if f'"claimName": "{CLAIM}"' in json.dumps(pod["spec"])]
    if mounting:
        in_namespace("delete", "pod", "--ignore-not-found", *mounting)


def volume_pod(name: str, image: str, command: list[str], container: Object, **spec: Any) -> Object:
    main = {
        "name": "main",
        "image": image,
        "command": command,
        "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "data", "mountPath": "/mnt/mtorl"}],
    }
    # KFP can't set fsGroup, so this pod gives the volume to the group that the steps run as.
    whole = {
        "restartPolicy": "Never",
        "securityContext": {**OURS, "fsGroup": 10001, "fsGroupChangePolicy": "OnRootMismatch"},
        "containers": [main | container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": CLAIM}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": whole | spec}


def on_volume(code: str, *arguments: str) -> str:
    pod = volume_pod("mtorl-test", os.environ["MTORL_IMAGE"], ["python", "-c", code, *arguments], {})
    in_namespace("create", "-f", "-", stdin=json.dumps(pod))
    try:
        phase = eventually(lambda: phase_of("mtorl-test"), MINUTES)
        printed = in_namespace("logs", "mtorl-test")
        assert phase == "Succeeded", printed
        return printed
    finally:
        in_namespace("delete", "pod", "mtorl-test")


def phase_of(pod: str) -> str:
    phase = in_namespace("get", "pod", pod, "-o", "jsonpath={.status.phase}")
    return phase if phase in ("Succeeded", "Failed") else ""


@dataclass(frozen=True)
class Run:
    id: str
    state: str
    # State of each started step by name; a CACHED step was skipped.
    steps: dict[str, str]

    @property
    def ended(self) -> bool:
        return self.state in ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")


def look(client: Any, run_id: str) -> Run:
    """Return the state of a run and of its steps.

    For each step, the API lists three tasks: the step itself, its driver, and its container, called "executor".
    """
    run = client.get_run(run_id)
    tasks = list((run.run_details.task_details if run.run_details else None) or [])
    names = {task.display_name for task in tasks}
    skipped = {task.start_time for task in tasks if task.display_name == "executor" and task.state == "SKIPPED"}
    steps = {}
    for task in tasks:
        if task.display_name != "root" and f"{task.display_name}-driver" in names:
            short = task.start_time in skipped and (task.end_time - task.start_time).total_seconds() < 2
            cached = task.state == "SUCCEEDED" and short  # a pod takes longer to start
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
    return eventually(lambda: run if (run := state()).ended else None, 1200, state)


def pod_of(run_id: str, step: str) -> str:
    """Return the newest pod of a step, or the empty string."""
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
