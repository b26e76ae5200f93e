"""Reads how the steps of a run ended, in the states of `monitoring.pipeline_runs`.

On this machine, the status that the last step gets is right. On Kubeflow Pipelines 2.17 it is the state of the group of
steps in ML Metadata, which changes only when a container of the group ends: it still says RUNNING after a branch that
was skipped last, and can say FAILED after an attempt that was retried. So the last step reads the phase of the group
from the workflow of Argo, which runs the steps.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from components.messages import END_UNKNOWN
from monitoring.pipeline_runs import RunEnd

NODE = "MTORL_ARGO_NODE"
"""Variable of the environment: Argo's name for the node of the last step; not set on this machine."""
_ATTEMPT, _FAILED = re.compile(r"\(\d+\)$"), {"Failed", "Error"}  # of Argo: the number in a name; phases


def run_end(state: str, message: str | None) -> tuple[RunEnd, str]:
    """State of the other steps as a whole, and the reason of a failure that no step has recorded.

    A run whose end can't be read counts as failed, with that reason: it must never look like a success. The arguments
    are of the status that KFP gives the last step.
    """
    node = os.environ.get(NODE)
    if not node:
        return RunEnd(state), message or ""
    try:
        return state_of(_workflow(re.split(r"[.(]", node)[0])["status"]["nodes"], node)
    except Exception as error:
        return RunEnd.FAILED, END_UNKNOWN(error=f"{type(error).__name__}: {error}")


def state_of(nodes: Mapping[str, Mapping[str, Any]], node: str) -> tuple[RunEnd, str]:
    """State of the steps before an exit step, and Argo's messages on the pods that failed.

    Args:
        node: Name of the exit step's own node: WORKFLOW(0).root(0).exit-handler-1.onExit(0).notify(0).executor(0)
    """
    group = node.partition(".onExit")[0]
    by_name = {one["name"]: one for one in nodes.values()}
    if by_name[group]["phase"] == "Succeeded":
        return RunEnd.SUCCEEDED, ""
    failed = {}
    for name, one in sorted(by_name.items()):
        retries = by_name.get(_ATTEMPT.sub("", name), one)
        below = name.removeprefix(group)  # starts with a bracket where Argo retries groups, as KFP ships it
        ours = one["type"] == "Pod" and below != name and re.match(r"[(.](?!onExit)", below)
        if ours and {one["phase"], retries["phase"]} <= _FAILED:
            failed[step_of(name)] = one.get("message") or one["phase"]
    return RunEnd.FAILED, "; ".join(f"{step}: {message}" for step, message in failed.items())


def step_of(node: str) -> str:
    """The step of a pod, by Argo's name for it: RUN(0).root(0).STEP(0).executor(0), or ...STEP-driver(0)."""
    path = [part.split("(")[0] for part in node.split(".")]
    return path[-2] if path[-1] == "executor" else path[-1].removesuffix("-driver")


def _workflow(name: str) -> Mapping[str, Any]:
    from serving.kubernetes_api import KubernetesApi

    found = KubernetesApi(retries=5).get("workflows", name)  # half a minute
    if found is None:
        raise LookupError(f"workflow {name} is gone")
    return found
