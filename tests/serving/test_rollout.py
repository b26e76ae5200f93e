"""Which version each arm serves, and what a new one waits for."""

from __future__ import annotations

from typing import Any

import pytest

from serving.inference_services import VERSION, Rollout, rollout_of

SERVICE = {
    "metadata": {"name": "mtorl-challenger"},
    "spec": {"predictor": {"annotations": {VERSION: "challenger/new"}}},
}


def pod(version: str, ready: bool = False, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"pod-{version.partition('/')[2]}",
            "labels": {"serving.kserve.io/inferenceservice": "mtorl-challenger"},
            "annotations": {VERSION: version},
        },
        "status": {"conditions": [{"type": "Ready", "status": str(ready)}], **status},
    }


def rollout(*pods: dict[str, Any]) -> Rollout:
    other = pod("challenger/new", True)
    other["metadata"]["labels"] = {"serving.kserve.io/inferenceservice": "another"}
    return rollout_of(SERVICE, [other, *pods])


def test_a_version_that_serves_alone_is_rolled_out() -> None:
    assert rollout(pod("challenger/new", True), pod("challenger/new", True)) == Rollout(
        "mtorl-challenger", "challenger/new", {"challenger/new": 2}, ""
    )
    assert rollout(pod("challenger/new", True)).done


def test_while_the_old_one_serves_it_is_not() -> None:
    both = rollout(pod("challenger/old", True), pod("challenger/new", True))
    assert both.serving == {"challenger/old": 1, "challenger/new": 1} and not both.done
    ending = pod("challenger/old", True)
    ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert rollout(ending, pod("challenger/new", True)).done


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        ({"initContainerStatuses": [{"name": "wait-for-model", "state": {"running": {}}}]}, "no such version"),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "Insufficient cpu"}]},
            "Insufficient cpu",
        ),
        (
            {"containerStatuses": [{"name": "kserve-container", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]},
            "kserve-container: ImagePullBackOff",
        ),
        ({"containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "PodInitializing"}}}]}, "starting"),
        ({}, "starting"),
    ],
)
def test_a_version_that_does_not_come_up_says_why(status: dict[str, Any], problem: str) -> None:
    stuck = rollout(pod("challenger/old", True), pod("challenger/new", **status))
    assert stuck.serving == {"challenger/old": 1} and not stuck.done
    assert stuck.problem.startswith("pod-new: ") and problem in stuck.problem


def test_an_arm_without_pods_says_so() -> None:
    assert rollout().problem == "no pod"
