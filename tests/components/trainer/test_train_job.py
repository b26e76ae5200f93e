"""Tests of the TrainJob object against Trainer's CRD, and of the code that reads its status."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.trainer.train_job import (
    TOUCHPOINTS_PER_PROCESS,
    Pods,
    Size,
    State,
    problem_of,
    size_for,
    state_of,
    train_job,
)
from tests.manifests.conftest import CRDS, VALIDATOR, assert_restricted

PODS = Pods(4, 8, "registry.example.com/mtorl/train:1", "/mnt/mtorl", "4", "8", "16Gi", seconds=3600)
JOB = train_job("mtorl-train-0a1b2c3d4e5f6071", Size(2, 8), PODS, "/task.json", "/progress.jsonl", ("step-1", "6f0c"))


def validated(job: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    if not (VALIDATOR.exists() and CRDS.exists()):
        pytest.skip(f"no validator: {VALIDATOR} and its CRDs are not there (set VALIDATOR and CRDS)")
    command = [sys.executable, str(VALIDATOR), "--crds", str(CRDS)]
    return subprocess.run(command, input=yaml.safe_dump(job), capture_output=True, text=True)


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert node["name"] == "node"
    return dict(node["template"]["spec"]["template"])


@pytest.mark.parametrize("pods", [PODS, replace(PODS, gpus=0)])
def test_the_job_is_valid_for_trainer(pods: Pods) -> None:
    done = validated(train_job("mtorl-train-0a1b", Size(2, 1), pods, "/t", "/r"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_pods_are_admitted_to_a_restricted_namespace() -> None:
    pod = pod_of(JOB)["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "node" and "env" not in container, "Trainer's webhook refuses variables in a pod patch"
    assert_restricted(pod)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"data": "/mnt/mtorl", "tmp": "/tmp", "shm": "/dev/shm"}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "mtorl-data"}


def test_a_node_gets_its_gpus_and_the_resources_of_a_quota() -> None:
    trainer, pod = JOB["spec"]["trainer"], pod_of(JOB)["spec"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 8)
    assert {one["name"] for one in trainer["env"]} == {
        *("HOME", "MTORL_PROGRESS", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE")
    }, "Trainer's webhook refuses torchrun's own variables"
    (owner,) = JOB["metadata"]["ownerReferences"]
    assert JOB["spec"]["activeDeadlineSeconds"] == 3600 and (owner["kind"], owner["uid"]) == ("Pod", "6f0c")
    assert trainer["resourcesPerNode"] == {
        "requests": {"cpu": "4", "memory": "16Gi"},
        "limits": {"cpu": "8", "memory": "16Gi", "nvidia.com/gpu": "8"},
    }
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    on_cpus = train_job("a", Size(2, 1), replace(PODS, gpus=0), "/t", "/r")
    assert set(on_cpus["spec"]["trainer"]["resourcesPerNode"]["limits"]) == {"cpu", "memory"}
    assert "tolerations" not in pod_of(on_cpus)["spec"]


@pytest.mark.parametrize(
    ("conditions", "state"),
    [
        ([], State()),
        ([("Suspended", "True", "Suspended", "")], State()),
        ([("Suspended", "False", "Resumed", "")], State()),
        ([("Complete", "True", "AllJobsCompleted", "jobset completed")], State(over=True)),
        ([("Failed", "True", "FailedJobs", "jobset failed")], State(over=True, failed="FailedJobs: jobset failed")),
        ([("Failed", "False", "FailedJobs", "")], State()),
    ],
)
def test_state_of_a_job(conditions: list[tuple[str, ...]], state: State) -> None:
    said = [dict(zip(("type", "status", "reason", "message"), one, strict=True)) for one in conditions]
    assert state_of({"status": {"conditions": said}}) == state
    assert state_of({}) == State()


@pytest.mark.parametrize(
    ("times", "gpus", "nodes", "size"),
    [
        (0, 8, 1, Size(1, 1)),
        (100, 0, 1, Size(1, 1)),  # one process if there are no GPUs
        (1.9, 8, 1, Size(1, 1)),  # too little data for a second process
        (2, 8, 1, Size(1, 2)),
        (100, 8, 1, Size(1, 8)),
        (0, 0, 2, Size(2, 1)),  # every node is used, even for little data
        (100, 0, 2, Size(2, 1)),  # without GPUs, each node has one process
        (9, 8, 4, Size(4, 2)),
        (100, 8, 4, Size(4, 8)),
    ],
)
def test_all_nodes_are_used_and_the_size_of_the_data_limits_their_gpus(
    times: float, gpus: int, nodes: int, size: Size, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"rows": int(times * TOUCHPOINTS_PER_PROCESS)}))
    assert size_for(str(tmp_path), replace(PODS, gpus=gpus, nodes=nodes)) == size


def waiting(reason: str, message: str = "", **more: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"state": {"waiting": {"reason": reason, "message": message}}, **more}]}


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        ({}, ""),
        ({"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}, ""),
        (waiting("ContainerCreating"), ""),
        (waiting("ErrImagePull", "no such tag"), "p: ErrImagePull: no such tag"),
        (waiting("CrashLoopBackOff", lastState={"terminated": {"exitCode": 7}}), "p: Error, exit code 7"),
        ({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}, "p: Evicted: low on memory"),
    ],
)
def test_the_reason_why_a_pod_waits_or_ended(status: dict[str, Any], problem: str) -> None:
    assert problem_of({"metadata": {"name": "p"}, "status": status}) == problem
