"""Builds the Kubernetes object of a TrainJob for Kubeflow Trainer (v1alpha1, Trainer 2.2 or later).

If a process is killed, Kubernetes restarts all pods, and the training continues from the checkpoint.
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
"""Name of the PersistentVolumeClaim with the data."""
USER = 10001
"""Id of the user and of the group as which all pods run."""
GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
NAME_LABEL, NAME = "app.kubernetes.io/name", "mtorl-train"
POD_NAME, POD_UID = "MTORL_POD_NAME", "MTORL_POD_UID"
"""Environment variables with the name and the UID of the pod that starts a training job. This pod owns the job, so the
job is deleted together with it."""
TOUCHPOINTS_PER_PROCESS = 5_000_000
"""Number of touchpoints for which one more training process is used. At 20 touchpoints per window, this is 250,000
windows, or more than a thousand training steps of 128 windows."""
# The command torchrun may be missing on the PATH of the image.
_COMMAND = ("python", "-m", "torch.distributed.run")
_ARGUMENTS = ("--max-restarts=0", "-m", "mtorl.fitting.worker")
# Without this setting, restarted processes would connect to the previous attempt's address:
# https://github.com/pytorch/pytorch/issues/135712
RESTARTABLE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
_RUNTIME = "torch-distributed"
_MANAGER = "mtorl-kubeflow/pipelines"
_JOB, _CONTAINER = "node", "node"
_SHARED_MEMORY = "2Gi"
_LAST_SECONDS = 30
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""Security settings that the Pod Security Standard "restricted" requires of a container. `POD_SECURITY` has the
settings that it requires of a pod."""
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
    """Settings of the pods of a training.

    Attributes:
        nodes: Number of pods. Pods with GPUs never share a node.
        gpus: Maximum number of GPUs per pod. With 0, each pod trains on CPUs in a single process.
        folder: Path at which the step and all pods mount the data volume.
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
        """Return the settings as text, for the parameter of a step."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def of(cls, text: str) -> Pods:
        """Create settings from the result of `text`."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Size:
    """Number of nodes of a training, and of processes on each node."""

    nodes: int = 1
    processes: int = 1

    @property
    def total(self) -> int:
        """Number of processes on all nodes."""
        return self.nodes * self.processes


def size_for(windows: str, pods: Pods) -> Size:
    """Choose the number of training processes per pod by the number of touchpoints.

    Each further process means fewer optimizer steps per epoch, so small data sets get fewer processes.
    """
    touchpoints = int(json.loads(Path(windows, "manifest.json").read_text())["rows"])
    worth = touchpoints // (TOUCHPOINTS_PER_PROCESS * pods.nodes)
    return Size(pods.nodes, min(max(1, worth), max(1, pods.gpus)))


class State(NamedTuple):
    """The state of a TrainJob."""

    over: bool = False
    failed: str = ""
    """Reason why the job failed; empty if it did not fail."""


def train_job(
    name: str, size: Size, pods: Pods, task: str, reports: str, owner: tuple[str, str] | None = None
) -> dict[str, Any]:
    """Return the Kubernetes object of a TrainJob.

    Args:
        task: File with the `FitTask`, on the shared volume.
        reports: File on the shared volume to which the processes write their progress.
        owner: Name and uid of the step's pod. Kubernetes deletes the job together with this pod.
    """
    limits = {"cpu": pods.cpu_limit, "memory": pods.memory}
    if pods.gpus:
        limits[GPU] = str(size.processes)
    environment = {**RESTARTABLE, progress.ENV: reports, "HOME": "/tmp"}  # torch writes compiled kernels to HOME
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
    """Return the labels that Kubernetes recommends for an object."""
    return {NAME_LABEL: name, "app.kubernetes.io/component": component, "app.kubernetes.io/part-of": "mtorl-kubeflow"}


def _patch(pods: Pods) -> dict[str, Any]:
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
    # Without this label, an Istio sidecar would keep running after the training has ended.
    labels = {**labels_of(NAME, "training"), "sidecar.istio.io/inject": "false"}
    template = {"metadata": {"labels": labels}, "spec": pod}
    jobs = [{"name": _JOB, "template": {"spec": {"template": template}}}]
    return {"template": {"spec": {"replicatedJobs": jobs}}}


def state_of(job: Mapping[str, Any]) -> State:
    """Derive the state of a TrainJob from its conditions."""
    conditions = {one["type"]: one for one in (job.get("status") or {}).get("conditions") or []}
    true = {name: one for name, one in conditions.items() if one["status"] == "True"}
    if failed := true.get("Failed"):
        return State(True, f"{failed['reason']}: {failed['message']}")
    return State("Complete" in true)


def problem_of(pod: Mapping[str, Any]) -> str:
    """Return why a pod waits or has failed; "" if it has no problem."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{name}: not scheduled: {condition.get('message', '')}"
    if status.get("phase") == "Failed" and status.get("reason"):  # for example Evicted or NodeLost
        return f"{name}: {status['reason']}: {status.get('message', '')}".rstrip(": ")
    for container in status.get("containerStatuses") or []:
        waiting = container.get("state", {}).get("waiting") or {}
        for ended in (container.get("state", {}).get("terminated"), container.get("lastState", {}).get("terminated")):
            if ended and ended.get("exitCode"):
                return f"{name}: {ended.get('reason', 'Error')}, exit code {ended['exitCode']}"
        if waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
            return f"{name}: {waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
    return ""
