"""Trainings in other processes, as tests see them: a small one, who trains, where it is, what it has learned."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from mtorl.artifact.artifact import Artifact
from mtorl.fitting.task import FitTask
from mtorl.network.training import TrainConfig

CONFIG = TrainConfig(epochs=4, patience=4, batch_size=8, hidden=8, heads=2, checkpoint_batches=2, device="cpu")


def eventually(found: Callable[[], Any]) -> Any:
    """What is found at last; a test that waits in vain ends at its own limit."""
    while not (it := found()):
        time.sleep(0.02)
    return it


def workers(of: psutil.Process) -> list[psutil.Process]:
    """Processes that train, below one."""
    found = []
    for child in of.children(recursive=True):
        try:
            words = child.cmdline()
        except psutil.Error:
            continue
        if "mtorl.fitting.worker" in words and "torch.distributed.run" not in words:
            found.append(child)
    return found


def checkpointed(task: FitTask) -> bool:
    return Path(f"{task.checkpoint}.member-0").exists()


def learned(artifact: Artifact) -> list[dict[str, float]]:
    """Its history, all but the time."""
    rows: list[dict[str, float]] = artifact.metrics["history"]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
