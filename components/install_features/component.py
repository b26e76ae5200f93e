"""The definitions of the features go to the folder where servers and jobs look for them."""

from kfp.dsl import Artifact, Input

from components.component import component


# Not cached: it writes to a folder that lives longer than a run, and which another run may have changed since.
@component("install the feature definitions", cached=False)
def install_features(definitions: Input[Artifact], feature_repo: str) -> bool:
    """Replace the registry in the folder unless it says the same already; returns whether it did not.

    Args:
        feature_repo: Folder of the feature repository.
    """
    from pathlib import Path

    from features.offline.store import install
    from mtorl.runtime.step import step

    with step():
        return install(Path(definitions.path), Path(feature_repo))
