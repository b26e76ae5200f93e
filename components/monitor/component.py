"""Runs a check of the monitor, which judges every completed day that was not judged before."""

from components.component import component


@component("judge the completed days", cached=False)
def monitor(lake: str, registry: str, dataset: str, state: str) -> str:
    """Judge every completed day that was not judged before; returns "fine", "moved", "harm" or "not judged".

    The step does the same as the command `mtorl monitor check`. It does not fail if the monitor finds something. If
    another check is running, the step returns the result of the previous check.

    Args:
        dataset: Name of a built-in data set, or path of a description; empty for the description of the newest
            published model.
        state: Folder of the monitor's state and pages.
    """
    from functools import partial
    from pathlib import Path

    from monitoring.watch.check import Watched, run
    from monitoring.watch.state import STATE_FILE, BusyError, State
    from monitoring.watch.training_sample import sample_of_artifact
    from mtorl.log.dataset import DatasetSpec
    from mtorl.log.lake import Lake
    from mtorl.runtime.step import step
    from serving.registry import description_of_newest, folder_of, newest

    with step():
        models, folder = Path(registry), Path(state)
        spec = DatasetSpec.load(dataset or description_of_newest(models))
        known = State.read(folder / STATE_FILE)
        samples = sample_of_artifact(partial(folder_of, models))
        watched = Watched(Lake.open(lake), spec, samples, known.hours, newest_model=partial(newest, models))
        try:
            known = run(watched, folder)
        except BusyError as error:
            print(error)
        print(known)
        return known.word
