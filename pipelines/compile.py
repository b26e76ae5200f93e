"""Compile the pipelines to the YAML that a cluster takes (KFP IR, schema 2.1)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp import compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions

from pipelines import backfill, bootstrap, monitoring, training
from pipelines.profile import PRODUCTION, STAGING, Profile
from pipelines.version_name import version_name

PIPELINES: tuple[Callable[[Profile], Any], ...] = (
    bootstrap.build,
    training.build,
    training.build_retrain,
    monitoring.build,
    backfill.build,
)


def compile_all(folder: Path, objects: bool = False, production: Profile = PRODUCTION) -> list[Path]:
    """Write PROFILE/PIPELINE.yaml of every pipeline for every profile of a cluster.

    Args:
        folder: Where to write; made when it is not there.
        objects: Write PROFILE/objects/PIPELINE.yaml too: the same as objects of Kubernetes, a Pipeline and a
            PipelineVersion, for a server in its Kubernetes-native mode.
        production: The profile of production, with other GPUs or nodes, say.

    Returns:
        The written files. Compiling twice gives the same bytes.
    """
    paths = []
    for profile in (STAGING, production):
        (folder / profile.name).mkdir(parents=True, exist_ok=True)
        for build in PIPELINES:
            pipeline = build(profile)
            path = folder / profile.name / f"{pipeline.name}.yaml"
            compiler.Compiler().compile(pipeline, str(path))
            paths.append(path)
            if objects:
                paths.append(_write_objects(pipeline, path))
    return paths


def _write_objects(pipeline: Any, compiled: Path) -> Path:
    """Write a pipeline as objects. A PipelineVersion can't be changed, so another content has another name."""
    path = compiled.parent / "objects" / compiled.name
    path.parent.mkdir(exist_ok=True)
    named = KubernetesManifestOptions(
        pipeline_name=pipeline.name,
        pipeline_version_name=version_name(pipeline.name, compiled.read_bytes()),
        include_pipeline_manifest=True,
    )
    compiler.Compiler().compile(pipeline, str(path), kubernetes_manifest_format=True, kubernetes_manifest_options=named)
    return path
