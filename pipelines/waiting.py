"""Why pods of a run wait: Kubernetes knows, KFP's API does not say."""

from __future__ import annotations

from typing import Any

from components.notify.run_end import step_of

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
    return {
        step_of(pod.metadata.annotations.get(NODE_NAME, "")): reason for pod in pods.items if (reason := reason_of(pod))
    }


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
