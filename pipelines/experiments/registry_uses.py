"""Everything that uses the versions of a registry: the decision log, this machine's servers, a cluster, experiments.

uses = RegistryUses.around(Path("runs/latest/registry"))
needs = uses.needs()          # what needs which version
uses.sources                  # where that comes from; empty: nothing says what serves, which does not mean nothing does
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from monitoring.models_in_log import uses_in_log
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.history import newest_promotion
from pipelines.experiments.folder import ExperimentFolder, named_by_router
from serving.archive import ArchiveError, version_of
from serving.inference_services import services_of_pod, uses_of
from serving.local.stack import archives
from serving.model_servers import Mark
from serving.versions.need import Needs

RUN_REGISTRY, VOLUME_REGISTRY = Path("runs/latest/registry"), Path("/mnt/mtorl/registry")


def default_registry() -> Path:
    """The registry of the newest run here, or else that of the volume."""
    return next((path for path in (RUN_REGISTRY, VOLUME_REGISTRY) if path.is_dir()), RUN_REGISTRY)


@dataclass(frozen=True)
class RegistryUses:
    """A registry and what uses it.

    Attributes:
        registry: Its root.
        decision_log: Folder of the decision log; None: there is none.
        run: Folder of the run whose models `mtorl serve` serves; None: the registry is not a run's.
        state: Folder of the state of `mtorl serve`; None: nothing is served on this machine.
        services: InferenceServices of a cluster; None: no cluster was asked.
        experiments: Those of a cluster.
    """

    registry: Path
    decision_log: Path | None = None
    run: Path | None = None
    state: Path | None = None
    services: Sequence[Mapping[str, Any]] | None = None
    experiments: Sequence[Experiment] = ()

    @classmethod
    def around(
        cls,
        registry: Path,
        decision_log: Path | None = None,
        state: Path | None = None,
        services: Sequence[Mapping[str, Any]] | None = None,
        experiments: Sequence[Experiment] = (),
    ) -> RegistryUses:
        """What lies beside a registry, as in a run's folder and on the data volume.

        Args:
            registry: Its root.
            decision_log: Instead of the folder beside it.
            state: Instead of that of the run's own servers.
            services: InferenceServices of a cluster; None: those of our namespace, if we run in a pod.
            experiments: Of that cluster.

        Raises:
            OSError: We run in a pod, and the API server does not say what serves.
        """
        parent = registry.parent
        log = decision_log or (parent / "decision_log" if (parent / "decision_log").is_dir() else None)
        run = parent if (parent / "model-store").is_dir() else None
        own = parent / "serving" if run is not None and (parent / "serving").is_dir() else None
        found = services_of_pod() if services is None else services
        return cls(registry, log, run, state or own, found, experiments)

    @property
    def sources(self) -> list[str]:
        """What says which versions serve; empty: nothing does."""
        found = [f"the decision log {self.decision_log}"] if self._in_log else []
        found += [f"the servers of {self.state}"] if self.state is not None and self.run is not None else []
        return found + (["the cluster"] if self.services is not None else [])

    def needs(self) -> Needs:
        """All known uses of versions.

        Raises:
            LogError: A file of the decision log was removed meanwhile.
            ExperimentError, HistoryError, OSError: An experiment, or a model that is served, can't be read.
        """
        needs = Needs(self._in_log, self.experiments)
        for use in uses_of(self.services or ()):
            needs.add(*use)
        if self.state is not None and self.run is not None:
            _add_local(needs, self.state, self.run)
        return needs

    @cached_property
    def _in_log(self) -> list[tuple[str, str, bool]]:
        return [] if self.decision_log is None else uses_in_log(str(self.decision_log))


def _add_local(needs: Needs, state: Path, run: Path) -> None:
    for file, archive in archives(run, state).items():
        try:
            needs.add(version_of(archive), f"mtorl serve serves it as {file.removesuffix('.mar')}", serves=True)
        except ArchiveError as error:
            raise OSError(str(error)) from None
    for path in sorted((state / "models").glob("*.json")):
        mark = Mark.model_validate_json(path.read_text())
        for version in (mark.before, mark.after):
            needs.add(version, f"a rollback of {path.stem} on this machine goes back to it")
    for folder in experiments_of(state):
        for experiment in (folder.last_in_force(), folder.definition() if folder.file.exists() else None):
            for arm in () if experiment is None else experiment.arms:
                needs.add(arm.model_digest or "", f"the experiment {folder.file} names it ({arm.name})")
        if (promotion := newest_promotion(folder.events())) is not None:
            for answer in (promotion.event.replaced, promotion.event.incumbent):
                digest = str((answer or {}).get("model_digest") or "")
                needs.add(digest, f"the promotion in {folder.file} was about it")


def experiments_of(state: Path) -> list[ExperimentFolder]:
    """The experiments that the router of a state reads.

    Args:
        state: Folder of the state of `mtorl serve`.
    """
    named = named_by_router(state, "experiment")
    place = Path(named) if named else None
    if place is None or not place.exists():
        return []
    found = []
    for file in sorted(place.glob("[!.]*.yaml")) if place.is_dir() else [place]:
        target = file.resolve()
        in_force = target.name == "experiment.yaml" and (target.parent / "router.yaml").exists()
        own = target.parent if in_force else target.with_suffix("")  # as `mtorl serve` calls the folder by default
        found.append(ExperimentFolder.of(own.with_suffix(".yaml") if in_force else target, own))
    return found
