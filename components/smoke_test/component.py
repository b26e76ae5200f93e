"""Loads each archive as a model server does, and requests a decision, before the archives are published."""

from kfp.dsl import Artifact, Input

from components.component import component


# Cached, because equal archives give equal answers.
@component("request a decision from both models")
def smoke_test(model_store: Input[Artifact]) -> str:
    """Request a decision from each model; returns the answers as text."""
    from pathlib import Path

    from mtorl.runtime.step import step
    from serving.smoke_test import check_archive

    with step():
        archives = sorted(Path(model_store.path).glob("*.mar"))
        answers = [f"{archive.stem}: {check_archive(archive)}" for archive in archives]
        print("\n".join(answers))
        return "; ".join(answers)
