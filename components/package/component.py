"""Packs model artifacts into the archives that TorchServe loads."""

from kfp.dsl import Artifact, Input, Model, Output

from components.component import component


@component("package for TorchServe")
def package(challenger: Input[Model], incumbent: Input[Model], model_store: Output[Artifact]):
    """Pack the artifacts of challenger and incumbent.

    If the incumbent has no artifact, only the challenger is packed.
    """
    from pathlib import Path

    from mtorl.evaluation.logged_incumbent import LoggedIncumbent
    from mtorl.runtime.step import step
    from serving.archive import package as archive

    with step():
        for name, artifact in (("incumbent", incumbent), ("challenger", challenger)):
            if LoggedIncumbent.named_in(artifact.path) is None:
                archive(Path(artifact.path), name, Path(model_store.path))
