"""Rolls a published challenger out to its model server.

Users get its decisions only after an experiment has started.
"""

from components.component import component


@component("roll out the challenger", cached=False)
def deploy(published: str, experiment: str, seconds: int) -> str:
    """Roll a published version out to the challenger's InferenceService; returns a summary in words.

    If the version is not ready in time, or makes no decision, it is rolled back. If users of an active experiment
    already get the challenger's decisions, nothing is changed.

    Args:
        published: Folder of the version in the registry, as the step publish returns it.
        experiment: Path of the active experiments that the router reads: a file, or a folder with several files.
        seconds: Longest time for the version to become ready.
    """
    from pathlib import Path

    from mtorl.artifact.artifact import load
    from mtorl.runtime.step import step
    from serving.deployment import deploy as run
    from serving.inference_services import InferenceServices
    from serving.kubernetes_api import KubernetesApi
    from serving.versions.need import experiments_in

    with step():
        folder = Path(published)
        version = f"{folder.parent.name}/{folder.name}"
        model = load(folder / "artifact")
        running = experiments_in(Path(experiment))
        servers = InferenceServices(KubernetesApi(retries=3))
        said = run(servers, folder.parent.name, version, model, running, seconds)
        print(said)
        return said
