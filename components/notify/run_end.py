"""Finds out, in the last step of a pipeline run, whether the other steps have succeeded.

Kubeflow Pipelines 2.17 may pass a wrong status to the last step: RUNNING after a skipped branch, or FAILED after a
successful retry. So on a cluster, this module reads the status of Argo's workflow.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from components.messages import END_UNKNOWN
from monitoring.pipeline_runs import RunEnd

NODE = "MTORL_ARGO_NODE"
"""Environment variable with Argo's name for the workflow node of the last step. It is not set on a laptop."""
_ATTEMPT, _FAILED = re.compile(r"\(\d+\)$"), {"Failed", "Error"}


def run_end(state: str, message: str | None) -> tuple[RunEnd, str]:
    """Return whether the other steps of the run have succeeded and, after a failure, the errors of their pods.

    If the workflow can't be read, the run counts as failed, because a failure must not look like a success.
    """
    node = os.environ.get(NODE)
    if not node:
        return RunEnd(state), message or ""
    try:
        return state_of(_workflow(re.split(r"[.(]", node)[0])["status"]["nodes"], node)
    except Exception as error:
        return RunEnd.FAILED, END_UNKNOWN(error=f"{type(error).__name__}: {error}")


def state_of(nodes: Mapping[str, Mapping[str, Any]], node: str) -> tuple[RunEnd, str]:
    """Return whether the steps before the last step have succeeded, and Argo's messages about the pods that failed.

    Args:
        nodes: All nodes of the workflow, from its status.
        node: Name of the last step's own node: WORKFLOW(0).root(0).exit-handler-1.onExit(0).notify(0).executor(0)
    """
    group = node.partition(".onExit")[0]
    by_name = {one["name"]: one for one in nodes.values()}
    if by_name[group]["phase"] == "Succeeded":
        return RunEnd.SUCCEEDED, ""
    failed = {}
    for name, one in sorted(by_name.items()):
        retries = by_name.get(_ATTEMPT.sub("", name), one)
        # Argo retries groups, so the rest of the name begins with an attempt such as "(0)".
        below = name.removeprefix(group)
        ours = one["type"] == "Pod" and below != name and re.match(r"[(.](?!onExit)", below)
        if ours and {one["phase"], retries["phase"]} <= _FAILED:
            failed[step_of(name)] = one.get("message") or one["phase"]
    return RunEnd.FAILED, "; ".join(f"{step}: {message}" for step, message in failed.items())


def step_of(node: str) -> str:
    """Return the step of a pod, given Argo's name such as RUN(0).root(0).train(0).executor(0)."""
    path = [part.split("(")[0] for part in node.split(".")]
    return path[-2] if path[-1] == "executor" else path[-1].removesuffix("-driver")


def _workflow(name: str) -> Mapping[str, Any]:
    from serving.kubernetes_api import KubernetesApi

    found = KubernetesApi(retries=5).get("workflows", name)  # retries for half a minute
    if found is None:
        raise LookupError(f"workflow {name} is gone")
    return found
