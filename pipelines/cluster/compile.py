"""Compile the pipelines to the YAML that a Kubeflow Pipelines server takes (KFP IR, schema 2.1)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import compiler

from pipelines import backfill, bootstrap, monitoring, training
from pipelines.profile import CLUSTER, Profile

PIPELINES: tuple[Callable[[Profile], Any], ...] = (
    bootstrap.build,
    training.build,
    training.build_retrain,
    monitoring.build,
    backfill.build,
)


def compile_all(folder: Path, profile: Profile = CLUSTER) -> list[Path]:
    """Write PIPELINE.yaml of every pipeline; returns the files. Compiling twice gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for build in PIPELINES:
        pipeline = build(profile)
        path = folder / f"{pipeline.name}.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        paths.append(path)
    return paths
