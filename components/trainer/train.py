"""Train where it is worth it: in this process, in one for each GPU of this pod, or in pods of their own."""

from __future__ import annotations

from components.trainer.on_nodes import train_on_nodes
from components.trainer.train_job import Pods
from mtorl.artifact.artifact import Artifact
from mtorl.fitting.processes import run_in_processes
from mtorl.fitting.size import Size
from mtorl.fitting.task import FitTask


def train(task: FitTask, size: Size, pods: Pods | None, shared: str) -> Artifact:
    """Train, and wait for the end.

    Args:
        task: What to train.
        size: Nodes and processes.
        pods: What pods get that train in place of this one; None to train here.
        shared: Folder that they share with this one.

    Raises:
        TrainingFailed: other processes failed; the message says why.
    """
    print(f"trains in {size.total} {'process' if size.total == 1 else 'processes'}, nodes: {size.nodes}")
    if pods is not None:
        return train_on_nodes(task, size, pods, shared)
    if size.total > 1:
        return run_in_processes(task, size.processes)
    artifact = task.run()
    assert artifact is not None  # None is for processes that train along with another one
    return artifact
