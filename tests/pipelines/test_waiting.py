"""Why a pod waits, as Kubernetes says it."""

from __future__ import annotations

from pathlib import Path

import pytest
from kubernetes import client

from pipelines.waiting import NODE_NAME, reason_of, waiting_steps


def pod(node: str = "run(0).root(0).train-challenger(0).executor(0)", **status: object) -> client.V1Pod:
    metadata = client.V1ObjectMeta(name="pod", annotations={NODE_NAME: node})
    return client.V1Pod(metadata=metadata, status=client.V1PodStatus(**status))


def waiting(reason: str, message: str | None = None) -> client.V1ContainerStatus:
    state = client.V1ContainerState(waiting=client.V1ContainerStateWaiting(reason=reason, message=message))
    return client.V1ContainerStatus(name="main", image="i", image_id="", ready=False, restart_count=0, state=state)


def test_a_pod_for_which_there_is_no_node() -> None:
    condition = client.V1PodCondition(
        type="PodScheduled", status="False", reason="Unschedulable", message="0/1 nodes: Insufficient nvidia.com/gpu"
    )
    assert reason_of(pod(conditions=[condition])) == "no node for it: 0/1 nodes: Insufficient nvidia.com/gpu"


@pytest.mark.parametrize(
    ("reason", "said"), [("ImagePullBackOff", "ImagePullBackOff: no such image"), ("ContainerCreating", "")]
)
def test_a_container_that_does_not_start(reason: str, said: str) -> None:
    assert reason_of(pod(container_statuses=[waiting(reason, "no such image")])) == said


def test_a_pod_that_runs_waits_for_nothing() -> None:
    scheduled = client.V1PodCondition(type="PodScheduled", status="True")
    assert reason_of(pod(conditions=[scheduled])) == ""


def test_without_a_kubeconfig_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert waiting_steps("run", "namespace") == {}
