"""Archives are opened and asked as a model server does it, before anybody else sees them."""

from kfp.dsl import Artifact, Input

from components.component import component


# Cached: the same archives answer the same.
@component("ask both models for a decision")
def smoke_test(model_store: Input[Artifact]) -> str:
    """Ask each model for decisions; returns what they answered, in words."""
    from pathlib import Path

    from mtorl.runtime.step import step
    from serving.smoke_test import ask

    with step():
        answers = [f"{archive.stem}: {ask(archive)}" for archive in sorted(Path(model_store.path).glob("*.mar"))]
        print("\n".join(answers))
        return "; ".join(answers)
