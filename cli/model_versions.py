"""`mtorl model`: the versions of a registry, and which of them a server serves where no experiment decides that."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.cluster import kubectl_get
from cli.commands import CommandGroup
from cli.endings import HELD, exit_codes, stop

if TYPE_CHECKING:
    from pipelines.versions.place import Place
    from pipelines.versions.servers import Told
    from serving.versions.catalogue import Version

app = CommandGroup("""The versions of a model registry: where each comes from, what serves, what may go.

    mtorl model list
    mtorl model show challenger/0a1b2c3d4e5f
    mtorl model compare incumbent/first challenger/0a1b2c3d4e5f
    mtorl model promote challenger/0a1b2c3d4e5f --arm incumbent
    mtorl model rollback --arm incumbent
    mtorl model rm challenger/0a1b2c3d4e5f

A version is named ARM/NAME, or by NAME or the beginning of its digest where that is said of one model only.
What an experiment compares is promoted by that experiment: mtorl experiment promote.
""")

RegistryOption = Annotated[
    Path | None,
    typer.Option(
        "--registry", help="Root of the registry; by default runs/latest/registry, or else /mnt/mtorl/registry."
    ),
]
LogOption = Annotated[
    Path | None, typer.Option("--decision-log", help="Folder of the decision log; by default the one beside it.")
]
StateOption = Annotated[
    Path | None, typer.Option("--state", help="Folder of the state of mtorl serve; by default that of the run.")
]
NamespaceOption = Annotated[
    str, typer.Option("--namespace", "-n", help="Of a cluster, which kubectl's context names. Empty: this machine.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON, with all figures, in place of words.")]
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="ARM/NAME, NAME or the start of a digest.")]
ArmOption = Annotated[str, typer.Option("--arm", help="Whose server; on a cluster, the InferenceService mtorl-ARM.")]


@app.command("list")
def list_versions(
    registry: RegistryOption = None,
    decision_log: LogOption = None,
    state: StateOption = None,
    namespace: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """List the versions by arm, the newest first: age, data, what the gate said, figures, and which ones serve.

        mtorl model list
        mtorl model list --registry /mnt/mtorl/registry -n mtorl --json

    What serves is what took each arm's newest decision, what mtorl serve is to serve, and, with -n, what the
    InferenceServices are told. Exit code 2: there is no registry.
    """
    from cli.version_tables import print_versions
    from pipelines.versions.known import listed
    from serving.versions.catalogue import versions

    place = _place(registry, decision_log, state, namespace)
    with _errors():
        rows = listed(versions(place.registry), place.needs(), datetime.now(UTC))
    if as_json:
        _print_json({"registry": str(place.registry), "told_by": place.told_by, "versions": rows})
        return
    print_versions(rows, place.registry, place.told_by)


@app.command()
def show(
    version: VersionArgument,
    registry: RegistryOption = None,
    decision_log: LogOption = None,
    state: StateOption = None,
    namespace: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Say all that is known of a version: data, code, settings, figures, the gate's report, and its parents.

        mtorl model show challenger/0a1b2c3d4e5f

    Of what an earlier release has published, only what the artifact itself says is known.
    """
    from cli.version_tables import print_version
    from pipelines.versions.known import told
    from serving.versions.catalogue import versions

    place = _place(registry, decision_log, state, namespace)
    with _errors():
        found = told(_find(place, version), versions(place.registry), place.needs())
    if as_json:
        _print_json(found)
        return
    print_version(found)


@app.command()
def compare(
    one: VersionArgument,
    other: VersionArgument,
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put two versions side by side: figures with intervals, and what differs in data, code and settings.

        mtorl model compare incumbent/first challenger/0a1b2c3d4e5f

    Each figure is of its own evaluation; whether one model is better, an experiment says, or the gate of the one that
    was compared with the other.
    """
    from cli.version_tables import print_comparison
    from pipelines.versions.known import compared

    place = _place(registry, None, None, "", alone=True)
    with _errors():
        found = compared(_find(place, one), _find(place, other))
    if as_json:
        _print_json(found)
        return
    print_comparison(found)


@app.command()
def promote(
    version: VersionArgument,
    arm: ArmOption = "incumbent",
    registry: RegistryOption = None,
    state: StateOption = None,
    namespace: NamespaceOption = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Let a server serve a version, where no experiment compares what it serves.

        mtorl model promote challenger/0a1b2c3d4e5f --arm challenger
        mtorl model promote challenger/0a1b2c3d4e5f --arm incumbent -n mtorl

    On this machine, mtorl serve serves it from its next start on. On a cluster (-n), the InferenceService is told, and
    models.yaml of your overlay has to follow; call it where the registry's volume is mounted, since it looks whether
    the version is there, or patch as docs/cluster.md says.

    Exit code 4: an experiment is about what the server serves; the message has the command to use instead.
    """
    from pipelines.experiments.by_hand import ComparedError
    from pipelines.experiments.by_hand import promote as serve
    from serving.versions.pruning import locked

    place = _place(registry, None, state, namespace, alone=True)
    with _errors():
        told, server = _servers(place, namespace, arm)
        found = _find(place, version)
        if dry_run:
            typer.echo(f"{server} would serve {found.ref}, digest {found.digest[:12]}")
            return
        try:
            with locked(place.registry):  # or a pruning might remove it meanwhile
                name = told.take(_find(place, version))
                typer.echo(serve(told.servers, server, name, found.digest, told.experiments, time.time()))
        except ComparedError as error:
            stop(str(error), HELD)
        typer.echo(told.afterwards(server, name))


@app.command()
def rollback(
    arm: ArmOption = "incumbent",
    registry: RegistryOption = None,
    state: StateOption = None,
    namespace: NamespaceOption = "",
) -> None:
    """Let a server serve again what it did before the newest `mtorl model promote`.

        mtorl model rollback --arm incumbent

    What an experiment has promoted is rolled back by mtorl experiment rollback. Exit code 4 as of promote.
    """
    from pipelines.experiments.by_hand import ComparedError, roll_back

    place = _place(registry, None, state, namespace, alone=True)
    with _errors():
        told, server = _servers(place, namespace, arm)
        try:
            typer.echo(roll_back(told.servers, server, told.experiments))
        except ComparedError as error:
            stop(str(error), HELD)
        served = told.servers.served(server)
        typer.echo(told.afterwards(server, "" if served is None else served.version))


@app.command("rm")
def remove(
    version: VersionArgument,
    registry: RegistryOption = None,
    decision_log: LogOption = None,
    state: StateOption = None,
    namespace: NamespaceOption = "",
) -> None:
    """Remove a version that nothing needs.

        mtorl model rm challenger/0a1b2c3d4e5f

    Never one that serves, has taken a decision that is still in the log, is named by an experiment, is what a rollback
    goes back to, or is of the first installation. Exit code 4: it is needed, or nobody says what serves.
    """
    from serving.versions.catalogue import versions
    from serving.versions.pruning import locked, remove_version

    place = _place(registry, decision_log, state, namespace)
    with _errors():
        if not place.told_by:
            stop(
                f"nobody says which versions of {place.registry} serve: name a decision log (--decision-log), the "
                "state of mtorl serve (--state), or a cluster's namespace (-n)",
                HELD,
            )
        with locked(place.registry):
            found = _find(place, version)
            needs = place.needs().with_rollbacks(versions(place.registry))
            if reasons := needs.reasons(found):
                stop(f"{found.ref} stays: {'; '.join(reasons)}", HELD)
            remove_version(found)
    typer.echo(f"removed {found.ref}")


def _place(
    registry: Path | None, decision_log: Path | None, state: Path | None, namespace: str, alone: bool = False
) -> Place:
    """What is known around a registry.

    Args:
        registry: As the option says it.
        decision_log: Likewise.
        state: Likewise.
        namespace: Likewise.
        alone: Whether the registry's own files are all that matters.
    """
    from monitoring.versions.on_cluster import NotAllowedError
    from mtorl.experiment.experiment import Experiment
    from pipelines.versions.place import Place, default_registry

    root = registry or default_registry()
    if not root.is_dir():
        stop(f"{root}: no registry there; name one with --registry", 2)
    services: list[dict[str, Any]] | None = [] if alone else None
    experiments: list[Experiment] = []
    if namespace and not alone:
        services = kubectl_get("inferenceservices.serving.kserve.io", namespace)
        for config_map in kubectl_get("configmap", namespace):
            if config_map["metadata"]["name"] == "mtorl-experiment":
                with _errors():
                    experiments = [Experiment.from_yaml(text) for text in (config_map.get("data") or {}).values()]
    with exit_codes(unusable=(NotAllowedError,)):
        return Place.around(root, decision_log, state, services, experiments)


def _find(place: Place, name: str) -> Version:
    from serving.versions.catalogue import find

    return find(place.registry, name)


def _servers(place: Place, namespace: str, arm: str) -> tuple[Told, str]:
    """The servers that are meant, and the name of the arm's."""
    from pipelines.versions.servers import on_cluster, on_this_machine

    if namespace:
        from kubernetes.client.exceptions import ApiException
        from kubernetes.config import ConfigException

        from pipelines.experiments.operator.cluster_api import ClusterApi

        try:
            return on_cluster(ClusterApi(namespace, "mtorl-experiment")), f"mtorl-{arm}"
        except (ApiException, ConfigException) as error:
            stop(f"the cluster does not say which experiments there are: {str(error).splitlines()[0]}", 2)
    if place.run is None or place.state is None:
        stop(
            f"{place.registry} is no run's registry, so no server of this machine serves from it: name the cluster's "
            "namespace, -n",
            2,
        )
    return on_this_machine(place.run, place.state), arm


@contextmanager
def _errors() -> Iterator[None]:
    """End the command with a line where the registry, or what says who serves, can't be used."""
    from mtorl.artifact.artifact import ArtifactError
    from mtorl.log.touchpoints import LogError
    from serving.registry import RegistryError

    # ValueError: an experiment or its history, or what a server has no version for.
    with exit_codes(unusable=(ValueError, OSError, LogError, ArtifactError, RegistryError)):
        yield


def _print_json(found: object) -> None:
    typer.echo(json.dumps(found, indent=2))
