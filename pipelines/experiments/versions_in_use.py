"""Finds the model versions that are in use, so that they are not deleted from the registry."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from monitoring.models_in_log import models_in_log
from mtorl.experiment.experiment import Experiment
from mtorl.experiment.history import newest_promotion
from mtorl.runtime.errors import InputError
from mtorl.runtime.validation import load_yaml
from pipelines.experiments.folder import ExperimentFolder, read_by_router
from serving.archive import version_of
from serving.inference_services import services_of_pod, versions_of
from serving.local.stack import archives
from serving.model_servers import Mark
from serving.versions.need import Needs

RUN_REGISTRY, VOLUME_REGISTRY = Path("runs/latest/registry"), Path("/mnt/mtorl/registry")


def default_registry() -> Path:
    """Return the registry of the newest local run or, without one, of the data volume."""
    return next((path for path in (RUN_REGISTRY, VOLUME_REGISTRY) if path.is_dir()), RUN_REGISTRY)


class VersionsInUse:
    """A registry, and the sources that show which of its versions are in use.

    Raises OSError if this process runs in a pod and can't list the InferenceServices.

    Args:
        lake: By default, the lake next to the registry.
        state: State folder of the router, by default next to the registry.
        services: InferenceServices of a cluster, by default those of the pod's namespace.
        experiments: Active experiments of the cluster.
    """

    def __init__(
        self,
        registry: Path,
        lake: str | None = None,
        state: Path | None = None,
        services: Sequence[Mapping[str, Any]] | None = None,
        experiments: Sequence[Experiment] = (),
    ) -> None:
        parent = registry.parent
        next_to_it = parent / "lake"
        self.registry = registry
        self._lake = lake or (str(next_to_it) if next_to_it.is_dir() else "")
        self._run = parent if (parent / "model-store").is_dir() else None
        self._state = state or (parent / "serving" if self._run and (parent / "serving").is_dir() else None)
        self._services = services_of_pod() if services is None else services
        self._experiments = experiments

    @property
    def sources(self) -> list[str]:
        """Describe the sources that show which versions serve; empty if there are none."""
        found = [f"the decisions in the lake {self._lake}"] if self._in_log else []
        found += [f"the servers of {self._state}"] if self._state is not None and self._run is not None else []
        return found + (["the cluster"] if self._services is not None else [])

    def needs(self) -> Needs:
        """Collect all known uses of model versions. Raises InputError or OSError if a source can't be read."""
        needs = Needs(self._in_log, self._experiments)
        for use in versions_of(self._services or ()):
            needs.add(*use)
        if self._state is not None and self._run is not None:
            _add_local(needs, self._state, self._run)
        return needs

    @cached_property
    def _in_log(self) -> list[tuple[str, str, bool]]:
        return models_in_log(self._lake)


def _add_local(needs: Needs, state: Path, run: Path) -> None:
    for file, archive in archives(run, state).items():
        needs.add(version_of(archive), f"mtorl serve serves it as {file.removesuffix('.mar')}", serves=True)
    for path in sorted((state / "models").glob("*.json")):
        mark = load_yaml(Mark, path, "the mark of a promotion", InputError)
        for version in (mark.before, mark.after):
            needs.add(version, f"a local rollback of {path.stem} would restore it")
    for folder in experiments_of(state):
        for experiment in (folder.last_in_force(), folder.definition() if folder.file.exists() else None):
            for arm in () if experiment is None else experiment.arms:
                needs.add(arm.model_digest or "", f"the experiment {folder.file} names it ({arm.name})")
        if (promotion := newest_promotion(folder.events())) is not None:
            for answer in (promotion.event.replaced, promotion.event.incumbent):
                digest = str((answer or {}).get("model_digest") or "")
                needs.add(digest, f"the promotion in {folder.file} involved it")


def experiments_of(state: Path) -> list[ExperimentFolder]:
    """List the experiments that the router of a state folder reads."""
    found = []
    for target in (file.resolve() for file in read_by_router(state) if file.exists()):
        in_force = target.name == "experiment.yaml" and (target.parent / "router.yaml").exists()
        own = target.parent if in_force else target.with_suffix("")
        found.append(ExperimentFolder.of(own.with_suffix(".yaml") if in_force else target, own))
    return found
