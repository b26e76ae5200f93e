"""Compiles the pipelines to YAML for a Kubeflow Pipelines server (KFP IR, schema 2.1)."""

from pathlib import Path

from kfp import compiler

from pipelines.on_volume import PIPELINES
from pipelines.profile import CLUSTER, Profile


def compile_all(folder: Path, profile: Profile = CLUSTER) -> list[Path]:
    """Compile each pipeline into a YAML file in `folder`, and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for build in PIPELINES.values():
        pipeline = build(profile)
        paths.append(folder / f"{pipeline.name}.yaml")
        compiler.Compiler().compile(pipeline, str(paths[-1]))
    return paths
