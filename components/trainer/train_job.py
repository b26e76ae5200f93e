"""A training as a TrainJob of Kubeflow Trainer (trainer.kubeflow.org/v1alpha1, of Trainer 2.2 or later).

    pods = Pods.of(text)                                  # what the profile gives the pods
    job = train_job("mtorl-train-0a1b", Size(4, 2), pods, task, reports, owner)
    state_of(job), trainer_status(...)

Each pod runs torchrun, which finds the others by the variables that Trainer's runtime for torch sets. Everything else
of a pod is a patch of that runtime (`runtimePatches`): the volume, the user, labels, what nodes it may be on. Its
containers are what the Pod Security Standard "restricted" asks for.

A process that is killed ends its pod's container, and then the others' too, since they wait for it; Kubernetes starts
the containers again, or new pods elsewhere, and they go on from the checkpoint. So torchrun itself restarts nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from mtorl.fitting.size import Size
from mtorl.fitting.torchrun import LAUNCHER, RESTARTABLE, WORKER
from mtorl.runtime import progress

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
NAME_LABEL, NAME = "app.kubernetes.io/name", "mtorl-train"
POD_NAME, POD_UID = "MTORL_POD_NAME", "MTORL_POD_UID"
"""Variables of the environment of the step that starts a job: its own pod, which then owns the job."""
_MANAGER = "mtorl-kubeflow/pipelines"
_JOB, _CONTAINER = "node", "node"  # of the runtime
_SHARED_MEMORY = "2Gi"  # through which the GPUs of a node, and what loads data for them, talk
_LAST_SECONDS = 30


@dataclass(frozen=True)
class Pods:
    """What each pod of a training on several nodes gets.

    Attributes:
        nodes: The most pods; each on a node of its own as far as GPUs make it so.
        image: Of the container.
        claim: Volume that all pods and the step share.
        folder: Where it is mounted.
        user: Numeric user and group.
        gpu_resource: Kubernetes resource name of one accelerator.
        cpu: Requested.
        cpu_limit: The most.
        memory: Requested, and the most.
        seconds: Longest training; 0 for no limit.
        node_selector: Labels of nodes.
        runtime: ClusterTrainingRuntime, with Trainer's policy for torch.
    """

    nodes: int
    image: str
    claim: str
    folder: str
    user: int
    gpu_resource: str
    cpu: str
    cpu_limit: str
    memory: str
    seconds: int = 0
    node_selector: dict[str, str] = field(default_factory=dict)
    runtime: str = "torch-distributed"

    def text(self) -> str:
        """As a parameter of a step."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def of(cls, text: str) -> Pods:
        """From a parameter of a step."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Owner:
    """The pod without which a TrainJob has no purpose: Kubernetes removes the job with it."""

    name: str
    uid: str


@dataclass(frozen=True)
class State:
    """How far a TrainJob is: none of both while it waits or runs."""

    complete: bool = False
    failed: bool = False
    words: str = ""
    """Why it failed."""


def train_job(name: str, size: Size, pods: Pods, task: str, reports: str, owner: Owner | None = None) -> dict[str, Any]:
    """The Kubernetes object.

    Args:
        name: Of the object.
        size: Pods, and processes in each: as many GPUs, if the task has any.
        pods: What each pod gets.
        task: File of the `mtorl.fitting.task.FitTask`, on the shared volume.
        reports: File on it that processes report to.
        owner: The pod of the step; None for nobody.
    """
    limits = {"cpu": pods.cpu_limit, "memory": pods.memory}
    if pods.gpu_resource:
        limits[pods.gpu_resource] = str(size.processes)
    environment = {**RESTARTABLE, progress.ENV: reports, "HOME": "/tmp"}  # compiled kernels are written below HOME
    spec: dict[str, Any] = {
        "runtimeRef": {"apiGroup": GROUP, "kind": "ClusterTrainingRuntime", "name": pods.runtime},
        "trainer": {
            "image": pods.image,
            "command": ["python", *LAUNCHER],
            "args": ["--max-restarts=0", *WORKER, task],
            "numNodes": size.nodes,
            "numProcPerNode": size.processes,
            "resourcesPerNode": {"requests": {"cpu": pods.cpu, "memory": pods.memory}, "limits": limits},
            "env": [{"name": key, "value": value} for key, value in environment.items()],
        },
        "runtimePatches": [{"manager": _MANAGER, "trainingRuntimeSpec": _patch(pods)}],
    }
    if pods.seconds:
        spec["activeDeadlineSeconds"] = pods.seconds
    metadata: dict[str, Any] = {"name": name, "labels": _labels()}
    if owner is not None:
        metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "Pod", "name": owner.name, "uid": owner.uid}]
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "TrainJob", "metadata": metadata, "spec": spec}


def _labels() -> dict[str, str]:
    return {
        NAME_LABEL: NAME,
        "app.kubernetes.io/component": "training",
        "app.kubernetes.io/part-of": "mtorl-kubeflow",
    }


def _patch(pods: Pods) -> dict[str, Any]:
    """What the runtime does not know."""
    container = {
        "name": _CONTAINER,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "data", "mountPath": pods.folder},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
    pod: dict[str, Any] = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": pods.user,
            "runAsGroup": pods.user,
            "fsGroup": pods.user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": _LAST_SECONDS,
        "containers": [container],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": pods.claim}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _SHARED_MEMORY}},
        ],
    }
    if pods.node_selector:
        pod["nodeSelector"] = pods.node_selector
    if pods.gpu_resource:
        pod["tolerations"] = [{"key": pods.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}]
    # A sidecar of Istio would go on when the training has ended.
    labels = {**_labels(), "sidecar.istio.io/inject": "false"}
    template = {"metadata": {"labels": labels}, "spec": pod}
    jobs = [{"name": _JOB, "template": {"spec": {"template": template}}}]
    return {"template": {"spec": {"replicatedJobs": jobs}}}


def state_of(job: Mapping[str, Any]) -> State:
    """What the conditions of a TrainJob say."""
    conditions = {one["type"]: one for one in (job.get("status") or {}).get("conditions") or []}
    true = {name: one for name, one in conditions.items() if one["status"] == "True"}
    if failed := true.get("Failed"):
        return State(failed=True, words=f"{failed['reason']}: {failed['message']}")
    return State(complete="Complete" in true)


def trainer_status(
    done: float, total: float, note: str, now: datetime, started: tuple[datetime, float] | None = None
) -> dict[str, Any]:
    """The field `status.trainerStatus` of a TrainJob.

    Args:
        done: Finished units.
        total: All units.
        note: Words beside them; "validation loss 2.08" becomes a metric.
        now: Time of the report, with its zone.
        started: An earlier time, and what was done by then, from which the time that is left follows.
    """
    share = min(max(done / max(total, 1e-9), 0.0), 1.0)
    status: dict[str, Any] = {
        "progressPercentage": math.floor(100 * share),
        "lastUpdatedTime": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    name, _, value = note.rpartition(" ")
    try:
        float(value)
    except ValueError:
        pass
    else:
        if name:
            status["metrics"] = [{"name": name.replace(" ", "_")[:64], "value": value[:64]}]
    if started is not None and done > started[1]:
        seconds = (now - started[0]).total_seconds() / (done - started[1]) * max(total - done, 0.0)
        status["estimatedRemainingSeconds"] = math.ceil(seconds)
    return status


def problem_of(pod: Mapping[str, Any]) -> str:
    """Why a pod waits or has ended badly; empty: it does neither."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{name}: no node for it: {condition.get('message', '')}"
    if status.get("phase") == "Failed" and status.get("reason"):  # Evicted, NodeLost
        return f"{name}: {status['reason']}: {status.get('message', '')}".rstrip(": ")
    for container in status.get("containerStatuses") or []:
        waiting = container.get("state", {}).get("waiting") or {}
        for ended in (container.get("state", {}).get("terminated"), container.get("lastState", {}).get("terminated")):
            if ended and ended.get("exitCode"):
                return f"{name}: {ended.get('reason', 'Error')}, exit code {ended['exitCode']}"
        if waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
            return f"{name}: {waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
    return ""
