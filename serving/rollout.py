"""The model version that each arm serves, and the one that it is meant to serve, from objects of Kubernetes.

    for arm in rollouts(api.list("inferenceservices"), api.list("pods")):
        print(arm.name, arm.wanted, arm.serving, arm.problem)

An InferenceService says Ready while any pod serves, so it does not tell that a new version never came up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.inference_services import VERSION

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Rollout:
    """The roll-out of one arm."""

    name: str
    wanted: str
    serving: dict[str, int]  # ready pods by version
    problem: str  # of pods of the wanted version that are not ready

    @property
    def done(self) -> bool:
        """Whether the wanted version serves, and no other."""
        return set(self.serving) == {self.wanted} and not self.problem


def rollouts(services: Sequence[Object], pods: Sequence[Object]) -> list[Rollout]:
    """The state of each arm."""
    return [_rollout(service, pods) for service in services]


def _rollout(service: Object, pods: Sequence[Object]) -> Rollout:
    name = service["metadata"]["name"]
    wanted = service["spec"]["predictor"].get("annotations", {}).get(VERSION, "")
    serving: dict[str, int] = {}
    problems = []
    for pod in pods:
        labels = pod["metadata"].get("labels", {})
        if labels.get("serving.kserve.io/inferenceservice") != name or "deletionTimestamp" in pod["metadata"]:
            continue
        version = pod["metadata"].get("annotations", {}).get(VERSION, "")
        if _is_ready(pod):
            serving[version] = serving.get(version, 0) + 1
        elif version == wanted:
            problems.append(f"{pod['metadata']['name']}: {_waits_for(pod)}")
    if not serving and not problems:
        problems.append("no pod")
    return Rollout(name, wanted, serving, "; ".join(problems))


def _is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _waits_for(pod: Object) -> str:
    status = pod.get("status", {})
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            return f"not scheduled: {condition.get('message', condition.get('reason', ''))}"
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        state = container.get("state", {})
        if "running" in state and container["name"] == "wait-for-model":
            return "the registry has no such version (kubectl logs POD -c wait-for-model lists those that there are)"
        if "waiting" in state and state["waiting"].get("reason") not in ("PodInitializing", "ContainerCreating"):
            return f"{container['name']}: {state['waiting'].get('message') or state['waiting'].get('reason', '')}"
    return "starting"
