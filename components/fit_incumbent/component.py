"""Provides the incumbent, with which the challenger is compared.

This is the serving policy or, if no policy serves yet, a policy that chooses channels as often as the log.
"""

from kfp.dsl import Dataset, Input, Model, Output

from components.component import component


@component("fit the incumbent")
def fit_incumbent(windows: Input[Dataset], served: str, policy: str, code_version: str, model: Output[Model]):
    """Copy the serving incumbent. If no policy serves yet, fit how often the log chooses each channel, by segment.

    Args:
        served: Artifact folder of the serving model, which never changes; empty if no model serves.
        policy: Name of a serving policy that has no artifact; empty if there is none.
        model: Artifact folder of the incumbent. If the incumbent has no artifact, the folder contains only its name.
    """
    from mtorl.evaluation.logged_incumbent import LoggedIncumbent
    from mtorl.fitting.fit import fit_incumbent as fit
    from mtorl.fitting.fit import take_incumbent
    from mtorl.runtime.snapshots import located
    from mtorl.runtime.step import step

    with step():
        data = str(located(windows.path))
        if policy:
            LoggedIncumbent(policy).write(data, model.path)
            return
        artifact = take_incumbent(data, served, model.path) if served else fit(data, model.path)
        model.metadata["digest"] = artifact.digest
