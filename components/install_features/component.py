"""Copies the feature definitions to the folder from which servers and jobs read them."""

from kfp.dsl import Artifact, Input

from components.component import component


# The step writes to a folder that other runs may change.
@component("install the feature definitions", cached=False)
def install_features(definitions: Input[Artifact], feature_repo: str) -> bool:
    """Replace the feature registry in the folder if it is different; returns whether it was replaced.

    Args:
        feature_repo: Folder of the feature repository.
    """
    from pathlib import Path

    from features.offline.store import install
    from mtorl.runtime.step import step

    with step():
        return install(Path(definitions.path), Path(feature_repo))
