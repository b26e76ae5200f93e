"""A challenger that has passed the gate goes to its place in the registry, which nobody changes afterwards."""

from kfp.dsl import Artifact, Input, Model

from components.component import component


@component("publish to the registry", cached=False)
def publish(challenger: Input[Model], model_store: Input[Artifact], registry: str) -> str:
    """Copy the challenger and its archive; returns where they lie.

    Args:
        challenger: Artifact folder.
        model_store: Folder written by package.
        registry: Root folder of the registry.
    """
    from pathlib import Path

    from mtorl.runtime.step import step
    from serving.registry import RegistryError
    from serving.registry import publish as run

    with step(RegistryError):
        archive = Path(model_store.path) / "challenger.mar"
        return str(run(Path(challenger.path), archive, Path(registry), "challenger"))
