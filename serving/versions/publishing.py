"""Publishes a challenger that the gate did not reject, and then prunes the registry."""

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from mtorl.artifact.lineage import Lineage
from mtorl.experiment.experiment import ExperimentError
from mtorl.log.touchpoints import LogError
from serving.archive import package
from serving.inference_services import VERSION
from serving.registry import ARMS, FIRST, publish, published_digest
from serving.versions.need import Needs, experiments_in
from serving.versions.origin import Origin
from serving.versions.pruning import locked, prune

ARM = "challenger"


def publish_approved(origin: Origin, model_store: str | Path, registry: str | Path) -> Path:
    """Publish a challenger with its lineage and .mar file; returns the version's folder."""
    with locked(Path(registry)):
        archive = Path(model_store) / f"{ARM}.mar"
        return publish(Path(origin.challenger), archive, Path(registry), ARM, origin.lineage())


def needs_experiment(version: Path) -> str:
    """Return the commands that start an experiment with a version, if the gate asked for one."""
    report = Lineage.read(version).gate
    if report is None or report.decision != "experiment":
        return ""
    place = json.dumps({"spec": {"predictor": {"annotations": {VERSION: f"{version.parent.name}/{version.name}"}}}})
    return (
        f"{version.parent.name}/{version.name} needs an experiment: {report.reason}\n"
        f"roll it out:   kubectl -n NAMESPACE patch inferenceservice mtorl-{ARM} --type merge -p '{place}'\n"
        "then begin:    kubectl -n NAMESPACE apply -f experiment.yaml     # docs/pipelines.md#a-second-look"
    )


def publish_first_models(origin: Origin, decision: str, registry: str | Path) -> str:
    """Publish the version `first` of each arm, unless it exists; returns a message about the result.

    If the gate's `decision` is not "promote", both arms start with the incumbent's model.
    """
    said = []
    for arm in ARMS:
        own = arm == ARM and decision == "promote"
        artifact = Path(origin.challenger if own else origin.incumbent)
        place = Path(registry) / arm / FIRST
        was_there = published_digest(place) is not None
        if not was_there:
            lineage = origin.lineage("challenger" if own else "incumbent")
            with tempfile.TemporaryDirectory() as store, locked(Path(registry)):
                publish(artifact, package(artifact, arm, Path(store)), Path(registry), arm, lineage, FIRST)
        digest = str(published_digest(place))[:12]
        said.append(f"{place}: {'unchanged' if was_there else 'published'}, digest {digest}")
    if decision != "promote":
        said.append("the gate rejected the challenger: both arms start with the incumbent's model (an A/A test)")
    return "\n".join(said)


def prune_others(
    published: Path, uses: Callable[[], Iterable[tuple[str, str, bool]]], experiments: Path, keep: int
) -> str:
    """Remove old versions after a version was published; returns the result as a sentence.

    Args:
        uses: Returns the versions in use, as `Needs` accepts them. After its OSError or LogError, nothing is removed.
        keep: Number of newest versions of each arm that always stay. 0 means that nothing is removed.
    """
    if not keep:
        return "all versions stay"
    registry = published.parents[1]
    with locked(registry):
        try:
            needs = Needs(uses(), experiments_in(experiments))
        except (OSError, LogError, ExperimentError) as error:
            return f"no version is removed, since the serving versions are unknown: {error}"
        needs.add(f"{published.parent.name}/{published.name}", "it has just been published")
        gone = prune(registry, needs, keep)
    if not gone:
        return "no version is both old and not needed: all stay"
    return f"removed {', '.join(version.ref for version in gone)}"
