"""Both artifacts become the archives that TorchServe loads."""

from kfp.dsl import Artifact, Input, Model, Output

from components.component import component


@component("package for TorchServe")
def package(challenger: Input[Model], incumbent: Input[Model], model_store: Output[Artifact]):
    """Pack both artifacts.

    Args:
        challenger: Artifact folder.
        incumbent: Artifact folder.
        model_store: Folder with incumbent.mar and challenger.mar.
    """
    from pathlib import Path

    from mtorl.runtime.step import step
    from serving.archive import package as archive

    with step():
        for name, artifact in (("incumbent", incumbent), ("challenger", challenger)):
            archive(Path(artifact.path), name, Path(model_store.path))
