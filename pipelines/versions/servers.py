"""The model servers whose version a person may name, with the experiments that are about them.

    told = on_this_machine(run, state)                       # those of `mtorl serve`
    told = on_cluster(api)                                   # InferenceServices
    print(promote(told.servers, "incumbent", told.take(version), version.digest, told.experiments, time.time()))

Which version a server serves is a pointer of its own: STATE/models/NAME.mar here, an annotation there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from mtorl.experiment.arm import INCUMBENT
from mtorl.experiment.history import HistoryError
from mtorl.experiment.stage_machine import STAGES
from pipelines.experiments.api import Api, ServerApi
from pipelines.experiments.by_hand import ByHandError, Compared, pending
from pipelines.experiments.config_map import entries
from pipelines.experiments.folder import ExperimentFolder
from pipelines.experiments.handover import ModelServers
from pipelines.experiments.local_servers import LocalServers, neighbour
from pipelines.experiments.operator.inference_services import InferenceServices
from pipelines.experiments.resource import ExperimentResource
from pipelines.loop.ramp import experiment_of, port_of_models
from pipelines.versions.place import experiments_of
from serving.local.stack import runs
from serving.versions.catalogue import Version

DEFAULT_PORT = 8085
"""Where `mtorl serve` lets models answer for experiments of one's own."""


class ClusterApi(Api, ServerApi, Protocol):
    """The API server of one namespace."""


class Told(NamedTuple):
    """Servers that a person tells what to serve."""

    servers: ModelServers
    experiments: Sequence[Compared]
    take: Callable[[Version], str]
    """Bring a version to where the servers find it; returns what they call it."""
    afterwards: Callable[[str, str], str]
    """What is left to do, in words, once a server was told a version."""


def on_this_machine(run: Path, state: Path, port: int | None = None) -> Told:
    """Those of `mtorl serve`.

    Args:
        run: Folder of the run whose models it serves.
        state: Folder of its state.
        port: Where the models answer; None: as the run's own experiment says, or by default.

    Raises:
        ExperimentError, HistoryError: An experiment can't be read, so nobody knows what it compares.
    """
    own = experiment_of(run)
    if port is None:
        is_own = state.resolve() == own.state.resolve() and own.file.exists()
        port = port_of_models(own) if is_own else DEFAULT_PORT
    servers = LocalServers(run, state, port)
    data_set = (run / "artifacts" / "challenger" / "dataset.yaml").read_bytes()

    def take(version: Version) -> str:
        if (version.folder / "artifact" / "dataset.yaml").read_bytes() != data_set:
            raise ByHandError(f"{version.ref} is a model of another data set than {run} is served with")
        return servers.add(version.folder / "model-store" / f"{version.arm}.mar")

    def afterwards(name: str, version: str) -> str:
        if runs(state):
            return "mtorl serve is running: it serves that after its next start"
        return "the next start of mtorl serve serves that"

    return Told(servers, [_of_folder(folder) for folder in experiments_of(state)], take, afterwards)


def on_cluster(api: ClusterApi) -> Told:
    """The InferenceServices of a namespace.

    Args:
        api: The API server.

    Raises:
        OSError: It does not answer.
        HistoryError: The history of an experiment can't be read.
    """
    found = []
    for name, entry in entries(api.in_force()).items():
        if entry.experiment is None:
            raise HistoryError(f"the ConfigMap's {entry.key} can't be read: nobody knows what it compares")
        pinned = entry.experiment.arm(INCUMBENT).model_digest
        thing = api.experiment(name)
        if thing is None:
            by_hand = f"enabled: false in {entry.key} of the ConfigMap"
            found.append(Compared(entry.experiment, entry.experiment.enabled, pinned, None, by_hand, by_hand))
            continue
        resource = ExperimentResource(api, None, thing)
        goes_on = entry.experiment.enabled or resource.status.get("phase") in STAGES
        move = 'kubectl patch exp %s --type merge -p \'{"spec": {"move": {"to": "%s", "reason": "WHY"}}}\''
        end, back = move % (name, "stopped"), move % (name, "rolled back")
        found.append(Compared(entry.experiment, goes_on, pinned, pending(resource.events()), end, back))

    def afterwards(name: str, version: str) -> str:
        arm = name.removeprefix("mtorl-")
        return (
            f"mtorl rollout -n {api.namespace} says how far that is. Write `{arm}: {version}` into models.yaml of your "
            "overlay, or the next apply takes it back"
        )

    return Told(InferenceServices(api), found, lambda version: version.ref, afterwards)


def _of_folder(folder: ExperimentFolder) -> Compared:
    found = neighbour(folder)
    end, back = f"mtorl experiment stop {folder.file}", f"mtorl experiment rollback {folder.file}"
    pinned = folder.definition().arm(INCUMBENT).model_digest  # which the next start of mtorl serve puts into force
    return Compared(found.experiment, not found.over, pinned, pending(folder.events()), end, back)
