"""Compile the pipelines to the YAML that a cluster takes (KFP IR, schema 2.1)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import compiler

from pipelines import bootstrap, monitoring, training
from pipelines.profile import PRODUCTION, STAGING, Profile

PIPELINES: tuple[Callable[[Profile], Any], ...] = (
    bootstrap.build,
    training.build,
    training.build_retrain,
    monitoring.build,
)


def compile_all(folder: Path) -> list[Path]:
    """Write PROFILE/PIPELINE.yaml of every pipeline for every profile of a cluster.

    Args:
        folder: Where to write; made when it is not there.

    Returns:
        The written files. Compiling twice gives the same bytes.
    """
    paths = []
    for profile in (STAGING, PRODUCTION):
        (folder / profile.name).mkdir(parents=True, exist_ok=True)
        for build in PIPELINES:
            pipeline = build(profile)
            path = folder / profile.name / f"{pipeline.name}.yaml"
            compiler.Compiler().compile(pipeline, str(path))
            paths.append(path)
    return paths
