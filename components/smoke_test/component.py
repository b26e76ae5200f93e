"""Loads archives as a model server does, and requests a decision of each, before they are published."""

from kfp.dsl import Artifact, Input

from components.component import component


# Cached: the same archives answer the same.
@component("ask both models for a decision")
def smoke_test(model_store: Input[Artifact]) -> str:
    """Request decisions from each model; returns the answers in words."""
    from pathlib import Path

    from mtorl.runtime.step import step
    from serving.smoke_test import check_archive

    with step():
        archives = sorted(Path(model_store.path).glob("*.mar"))
        answers = [f"{archive.stem}: {check_archive(archive)}" for archive in archives]
        print("\n".join(answers))
        return "; ".join(answers)
