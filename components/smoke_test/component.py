"""Loads each model archive like a model server and requests a decision, before the archives are published."""

from kfp.dsl import Artifact, Input

from components.component import component


@component("request a decision from both models")
def smoke_test(model_store: Input[Artifact]) -> str:
    """Request one decision from each model; returns the answers as text. The step fails if a model can't decide."""
    from pathlib import Path

    from mtorl.runtime.step import step
    from serving.smoke_test import check_archive

    with step():
        archives = sorted(Path(model_store.path).glob("*.mar"))
        answers = [f"{archive.stem}: {check_archive(archive)}" for archive in archives]
        print("\n".join(answers))
        return "; ".join(answers)
