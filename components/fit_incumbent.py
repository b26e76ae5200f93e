"""The policy to compare with: the channel frequencies of each segment, a stand-in for what a team runs today."""

from kfp.dsl import Dataset, Input, Model, Output

from components.component import component


@component("fit the incumbent")
def fit_incumbent(windows: Input[Dataset], code_version: str, model: Output[Model]):
    """Fit the channel frequencies by segment.

    Args:
        windows: Folder written by build_features.
        code_version: Part of the cache key: the library's version.
        model: Artifact folder of the incumbent.
    """
    from mtorl.fitting.fit import fit_incumbent as fit
    from mtorl.runtime.step import step
    from mtorl.window.window import WindowError

    with step(WindowError):
        artifact = fit(windows.path, model.path)
        model.metadata["digest"] = artifact.digest
