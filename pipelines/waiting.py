"""Why pods of a run wait: Kubernetes knows, KFP's API does not say."""

from __future__ import annotations

from typing import Any

RUN_LABEL, NODE_NAME = "pipeline/runid", "workflows.argoproj.io/node-name"


def waiting_steps(run_id: str, namespace: str) -> dict[str, str]:
    """What keeps pods of a run from starting, by the name of the step.

    Empty if no pod waits, or if this machine may not look: without a kubeconfig, or the right to list pods.
    """
    from kubernetes import client, config
    from kubernetes.client.exceptions import ApiException
    from kubernetes.config.config_exception import ConfigException
    from urllib3.exceptions import HTTPError

    try:
        try:
            config.load_incluster_config()
        except ConfigException:
            config.load_kube_config()
        pods = client.CoreV1Api().list_namespaced_pod(
            namespace, label_selector=f"{RUN_LABEL}={run_id}", _request_timeout=10
        )
    except (ConfigException, ApiException, HTTPError, OSError):
        return {}
    return {step_of(pod): reason for pod in pods.items if (reason := reason_of(pod))}


def step_of(pod: Any) -> str:
    """The step that a pod belongs to. Argo names a pod RUN(0).root(0).STEP(0).executor(0), or ...STEP-driver(0)."""
    path = [part.split("(")[0] for part in pod.metadata.annotations.get(NODE_NAME, "").split(".")]
    return path[-2] if path[-1] == "executor" else path[-1].removesuffix("-driver")


def reason_of(pod: Any) -> str:
    """Why a pod waits; empty if it doesn't."""
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"no node for it: {condition.message}"
    statuses = [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]
    for status in statuses:
        waiting = status.state.waiting if status.state else None
        if waiting and waiting.reason not in (None, "PodInitializing", "ContainerCreating"):
            return f"{waiting.reason}: {waiting.message or ''}".rstrip(": ")
    return ""
