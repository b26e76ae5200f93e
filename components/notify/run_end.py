"""Finds out how the other steps of a run have ended, as a state of `monitoring.pipeline_runs`.

On a laptop, this is the status that KFP passes to the last step. On Kubeflow Pipelines 2.17 that status may be wrong.
It is the state of the group of steps in ML Metadata, which changes only when a container of the group ends. If the last
branch was skipped, the status is still RUNNING, and after a successful retry it may be FAILED. Therefore the last step
reads the state of the group from the workflow of Argo, which runs the steps.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from components.messages import END_UNKNOWN
from monitoring.pipeline_runs import RunEnd

NODE = "MTORL_ARGO_NODE"
"""Environment variable with Argo's name for the node of the last step; not set on a laptop."""
# The number of an attempt at the end of a name in Argo, and the phases of a failed node.
_ATTEMPT, _FAILED = re.compile(r"\(\d+\)$"), {"Failed", "Error"}


def run_end(state: str, message: str | None) -> tuple[RunEnd, str]:
    """Return the joint state of all other steps and, if no step has recorded a reason of its failure, Argo's reason.

    `state` and `message` are from the status that KFP passes to the last step. If the end of the run can't be read, the
    run counts as failed (END_UNKNOWN), because an unknown end must not look like a success.
    """
    node = os.environ.get(NODE)
    if not node:
        return RunEnd(state), message or ""
    try:
        return state_of(_workflow(re.split(r"[.(]", node)[0])["status"]["nodes"], node)
    except Exception as error:
        return RunEnd.FAILED, END_UNKNOWN(error=f"{type(error).__name__}: {error}")


def state_of(nodes: Mapping[str, Mapping[str, Any]], node: str) -> tuple[RunEnd, str]:
    """Return the state of the steps before an exit step, and Argo's messages about the pods that failed.

    Args:
        nodes: All nodes of the workflow, from its status.
        node: Name of the exit step's own node: WORKFLOW(0).root(0).exit-handler-1.onExit(0).notify(0).executor(0)
    """
    group = node.partition(".onExit")[0]
    by_name = {one["name"]: one for one in nodes.values()}
    if by_name[group]["phase"] == "Succeeded":
        return RunEnd.SUCCEEDED, ""
    failed = {}
    for name, one in sorted(by_name.items()):
        retries = by_name.get(_ATTEMPT.sub("", name), one)
        # `below` begins with a bracket if Argo retries groups, which is the default of KFP.
        below = name.removeprefix(group)
        ours = one["type"] == "Pod" and below != name and re.match(r"[(.](?!onExit)", below)
        if ours and {one["phase"], retries["phase"]} <= _FAILED:
            failed[step_of(name)] = one.get("message") or one["phase"]
    return RunEnd.FAILED, "; ".join(f"{step}: {message}" for step, message in failed.items())


def step_of(node: str) -> str:
    """Return the name of the step to which a pod belongs.

    `node` is the name of the pod's node in Argo: RUN(0).root(0).STEP(0).executor(0), or ...STEP-driver(0).
    """
    path = [part.split("(")[0] for part in node.split(".")]
    return path[-2] if path[-1] == "executor" else path[-1].removesuffix("-driver")


def _workflow(name: str) -> Mapping[str, Any]:
    from serving.kubernetes_api import KubernetesApi

    found = KubernetesApi(retries=5).get("workflows", name)  # retries for half a minute
    if found is None:
        raise LookupError(f"workflow {name} is gone")
    return found
