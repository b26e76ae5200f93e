"""Builds the TrainJob of a training for Kubeflow Trainer (trainer.kubeflow.org/v1alpha1, Trainer 2.2 or later).

    pods = Pods.of(text)                                  # settings of the profile
    size = size_for(windows, pods)
    job = train_job("mtorl-train-0a1b", size, pods, task, reports, owner)
    state_of(job)

Each pod runs torchrun, which finds the other pods through variables that Trainer's runtime for torch sets. All other
settings of a pod are patches of that runtime (`runtimePatches`).

If a process is killed, its pod's container stops, and then the other pods' containers, which wait for this process.
Kubernetes restarts the containers or creates new pods, which resume from the checkpoint. So torchrun restarts nothing.
"""

from __future__ import annotations

import json
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
"""Environment variables with the pod of the step that starts a job; this pod owns the job."""
TOUCHPOINTS_PER_PROCESS = 5_000_000
"""Touchpoints for each process. At 20 per window, this gives 250,000 windows, or 1,500 training steps of 128."""
_COMMAND = ("python", "-m", "torch.distributed.run")  # torchrun, independent of the image's PATH
_ARGUMENTS = ("--max-restarts=0", "-m", "mtorl.fitting.worker")
# Otherwise, restarted processes use the previous run's address: https://github.com/pytorch/pytorch/issues/135712
RESTARTABLE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
_RUNTIME = "torch-distributed"  # a ClusterTrainingRuntime, with Trainer's policy for torch
_MANAGER = "mtorl-kubeflow/pipelines"
_JOB, _CONTAINER = "node", "node"  # names in the runtime
_SHARED_MEMORY = "2Gi"  # for communication between a node's GPUs and data loaders
_LAST_SECONDS = 30
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""Settings that the Pod Security Standard "restricted" requires of a container; `POD_SECURITY` has those of a pod."""
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
        nodes: Number of pods; if they have GPUs, each pod is on its own node.
        gpus: Most accelerators of a pod; 0 trains on CPUs, with one process per pod.
        folder: Mount path of the data volume, which the step and all pods share.
        seconds: Longest duration of a training.
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
        """Format the settings as text for a step's parameter."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def of(cls, text: str) -> Pods:
        """Parse the settings from the text of a step's parameter."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Size:
    """Number of nodes of a training, and of processes on each node, one per GPU."""

    nodes: int = 1
    processes: int = 1

    @property
    def total(self) -> int:
        """Number of processes on all nodes."""
        return self.nodes * self.processes


def size_for(windows: str, pods: Pods) -> Size:
    """Choose the number of processes per pod by the size of the data, up to its GPUs. All pods are used.

    Each process takes `batch_size` windows of every batch. N processes thus make N times fewer optimizer steps per
    epoch, each with N times as many windows. `TOUCHPOINTS_PER_PROCESS` ensures that an epoch has more than a thousand
    steps. On less data, another process would save only minutes, but change what the model learns.
    """
    touchpoints = int(json.loads(Path(windows, "manifest.json").read_text())["rows"])
    worth = touchpoints // (TOUCHPOINTS_PER_PROCESS * pods.nodes)
    return Size(pods.nodes, min(max(1, worth), max(1, pods.gpus)))


class State(NamedTuple):
    """State of a TrainJob."""

    over: bool = False
    failed: str = ""
    """Reason of a failure; empty if the job did not fail."""


def train_job(
    name: str, size: Size, pods: Pods, task: str, reports: str, owner: tuple[str, str] | None = None
) -> dict[str, Any]:
    """Return the Kubernetes object of a TrainJob.

    Args:
        size: Number of pods, and of processes in each pod; with GPUs, one GPU per process.
        task: File of the `mtorl.fitting.worker.FitTask`, on the shared volume.
        reports: File on that volume to which processes report.
        owner: Name and uid of the step's pod; Kubernetes removes the job together with this pod.
    """
    limits = {"cpu": pods.cpu_limit, "memory": pods.memory}
    if pods.gpus:
        limits[GPU] = str(size.processes)
    environment = {**RESTARTABLE, progress.ENV: reports, "HOME": "/tmp"}  # compiled kernels are written to HOME
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
    """Return the recommended labels of an object."""
    return {NAME_LABEL: name, "app.kubernetes.io/component": component, "app.kubernetes.io/part-of": "mtorl-kubeflow"}


def _patch(pods: Pods) -> dict[str, Any]:
    """Return the patch of the runtime's template for this training."""
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
    # An Istio sidecar would keep running after the training has ended.
    labels = {**labels_of(NAME, "training"), "sidecar.istio.io/inject": "false"}
    template = {"metadata": {"labels": labels}, "spec": pod}
    jobs = [{"name": _JOB, "template": {"spec": {"template": template}}}]
    return {"template": {"spec": {"replicatedJobs": jobs}}}


def state_of(job: Mapping[str, Any]) -> State:
    """Return the state of a TrainJob, from its conditions."""
    conditions = {one["type"]: one for one in (job.get("status") or {}).get("conditions") or []}
    true = {name: one for name, one in conditions.items() if one["status"] == "True"}
    if failed := true.get("Failed"):
        return State(True, f"{failed['reason']}: {failed['message']}")
    return State("Complete" in true)


def problem_of(pod: Mapping[str, Any]) -> str:
    """Return why a pod waits or has failed; empty if neither."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{name}: not scheduled: {condition.get('message', '')}"
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
