"""Compile the pipelines to the YAML that a cluster takes (KFP IR, schema 2.1)."""

from __future__ import annotations

from pathlib import Path

from kfp import compiler

from pipelines import monitoring, training
from pipelines.profile import CPU, GPU


def compile_all(folder: Path) -> list[Path]:
    """Write mtorl-train.yaml, mtorl-train-gpu.yaml and mtorl-monitor.yaml.

    Args:
        folder: Where to write; made when it is not there.

    Returns:
        The written files. Compiling twice gives the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    built = {
        "mtorl-train": training.build(CPU),
        "mtorl-train-gpu": training.build(GPU),
        "mtorl-monitor": monitoring.build(CPU),
    }
    paths = []
    for name, pipeline in built.items():
        path = folder / f"{name}.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        paths.append(path)
    return paths
