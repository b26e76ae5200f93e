"""A training as a TrainJob of Kubeflow Trainer (trainer.kubeflow.org/v1alpha1, of Trainer 2.2 or later).

    pods = Pods.of(text)                                  # what the profile gives the pods
    size = size_for(windows, pods)
    job = train_job("mtorl-train-0a1b", size, pods, task, reports, owner)
    state_of(job)

Each pod runs torchrun, which finds the others by the variables that Trainer's runtime for torch sets. Everything else
of a pod is a patch of that runtime (`runtimePatches`).

A process that is killed ends its pod's container, and then the others' too, since they wait for it; Kubernetes starts
the containers again, or new pods elsewhere, and they resume from the checkpoint. So torchrun itself restarts nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mtorl.runtime import progress

GPU = "nvidia.com/gpu"
"""Kubernetes resource name of one accelerator."""
VOLUME = "mtorl-data"
"""Claim of the data volume."""
USER = 10001
"""Numeric user and group of all pods."""
GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
NAME_LABEL, NAME = "app.kubernetes.io/name", "mtorl-train"
POD_NAME, POD_UID = "MTORL_POD_NAME", "MTORL_POD_UID"
"""Variables of the environment of the step that starts a job: its own pod, which then owns the job."""
TOUCHPOINTS_PER_PROCESS = 5_000_000
"""Of the windows folder. At 20 touchpoints in a window, these are 250,000 windows: 1,500 steps of 128 for training."""
_COMMAND = ("python", "-m", "torch.distributed.run")  # torchrun, wherever the image has its scripts
_ARGUMENTS = ("--max-restarts=0", "-m", "mtorl.fitting.worker")
# Restarted processes would else meet at the previous address: https://github.com/pytorch/pytorch/issues/135712
RESTARTABLE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
_RUNTIME = "torch-distributed"  # a ClusterTrainingRuntime, with Trainer's policy for torch
_MANAGER = "mtorl-kubeflow/pipelines"
_JOB, _CONTAINER = "node", "node"  # of the runtime
_SHARED_MEMORY = "2Gi"  # through which the GPUs of a node, and what loads data for them, talk
_LAST_SECONDS = 30
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""What the Pod Security Standard "restricted" asks of a container, with `POD_SECURITY` of its pod."""
POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass(frozen=True)
class Pods:
    """Settings of each pod of a training.

    Attributes:
        nodes: The most pods; each on a node of its own as far as GPUs make it so.
        gpus: The most accelerators of a pod; 0 trains on CPUs, in one process of each pod.
        folder: Mount path of the data volume, which all pods and the step share.
        seconds: Longest training.
    """

    nodes: int
    gpus: int
    image: str
    folder: str
    cpu: str
    cpu_limit: str
    memory: str
    seconds: int

    def text(self) -> str:
        """Settings as the text of a step's parameter."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def of(cls, text: str) -> Pods:
        """Settings from the text of a step's parameter."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Size:
    """Nodes of a training, and processes on each, one for each GPU."""

    nodes: int = 1
    processes: int = 1

    @property
    def total(self) -> int:
        """Processes on all nodes."""
        return self.nodes * self.processes


def size_for(windows: str, pods: Pods) -> Size:
    """Number of processes that a training is worth by the size of its data, up to what its pods may have.

    Each process takes `batch_size` windows of every batch, so N of them make N times fewer steps of the optimizer in an
    epoch, of N times as many windows. With `TOUCHPOINTS_PER_PROCESS` an epoch has more than a thousand steps, however
    many processes there are. On less data a further process would change what is learned, to save minutes.
    """
    touchpoints = int(json.loads(Path(windows, "manifest.json").read_text())["rows"])
    worth, most = max(1, touchpoints // TOUCHPOINTS_PER_PROCESS), max(1, pods.gpus)
    if worth <= most:
        return Size(1, worth)
    return Size(min(pods.nodes, math.ceil(worth / most)), most)


class State(NamedTuple):
    """State of a TrainJob."""

    over: bool = False
    failed: str = ""
    """Why it failed; empty: it did not."""


def train_job(
    name: str, size: Size, pods: Pods, task: str, reports: str, owner: tuple[str, str] | None = None
) -> dict[str, Any]:
    """The Kubernetes object.

    Args:
        size: Pods, and processes in each: as many GPUs, if the task has any.
        task: File of the `mtorl.fitting.worker.FitTask`, on the shared volume.
        reports: File on it that processes report to.
        owner: Name and uid of the step's pod, with which Kubernetes removes the job.
    """
    limits = {"cpu": pods.cpu_limit, "memory": pods.memory}
    if pods.gpus:
        limits[GPU] = str(size.processes)
    environment = {**RESTARTABLE, progress.ENV: reports, "HOME": "/tmp"}  # compiled kernels are written below HOME
    spec: dict[str, Any] = {
        "runtimeRef": {"apiGroup": GROUP, "kind": "ClusterTrainingRuntime", "name": _RUNTIME},
        "trainer": {
            "image": pods.image,
            "command": [*_COMMAND],
            "args": [*_ARGUMENTS, task],
            "numNodes": size.nodes,
            "numProcPerNode": size.processes,
            "resourcesPerNode": {"requests": {"cpu": pods.cpu, "memory": pods.memory}, "limits": limits},
            "env": [{"name": key, "value": value} for key, value in environment.items()],
        },
        "runtimePatches": [{"manager": _MANAGER, "trainingRuntimeSpec": _patch(pods)}],
        "activeDeadlineSeconds": pods.seconds,
    }
    metadata: dict[str, Any] = {"name": name, "labels": labels_of(NAME, "training")}
    if owner is not None:
        metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "Pod", "name": owner[0], "uid": owner[1]}]
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "TrainJob", "metadata": metadata, "spec": spec}


def labels_of(name: str, component: str) -> dict[str, str]:
    """Recommended labels of an object."""
    return {NAME_LABEL: name, "app.kubernetes.io/component": component, "app.kubernetes.io/part-of": "mtorl-kubeflow"}


def _patch(pods: Pods) -> dict[str, Any]:
    """Patch of the runtime's template for this training."""
    container = {
        "name": _CONTAINER,
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [
            {"name": "data", "mountPath": pods.folder},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }
    pod: dict[str, Any] = {
        "securityContext": POD_SECURITY,
        "terminationGracePeriodSeconds": _LAST_SECONDS,
        "containers": [container],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": VOLUME}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _SHARED_MEMORY}},
        ],
    }
    if pods.gpus:
        pod["tolerations"] = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
    # A sidecar of Istio would go on when the training has ended.
    labels = {**labels_of(NAME, "training"), "sidecar.istio.io/inject": "false"}
    template = {"metadata": {"labels": labels}, "spec": pod}
    jobs = [{"name": _JOB, "template": {"spec": {"template": template}}}]
    return {"template": {"spec": {"replicatedJobs": jobs}}}


def state_of(job: Mapping[str, Any]) -> State:
    """State of a TrainJob, by its conditions."""
    conditions = {one["type"]: one for one in (job.get("status") or {}).get("conditions") or []}
    true = {name: one for name, one in conditions.items() if one["status"] == "True"}
    if failed := true.get("Failed"):
        return State(True, f"{failed['reason']}: {failed['message']}")
    return State("Complete" in true)


def problem_of(pod: Mapping[str, Any]) -> str:
    """Reason why a pod waits or has failed; empty: it does neither."""
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
