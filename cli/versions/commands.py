"""`mtorl model`: the versions of a model registry."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.cluster import objects
from cli.commands import CommandGroup
from cli.endings import HELD, exit_codes, stop

if TYPE_CHECKING:
    from pipelines.experiments.registry_uses import RegistryUses

app = CommandGroup("""The versions of a model registry: what each was trained on, what serves, what may go.

    mtorl model list
    mtorl model show challenger/0a1b2c3d4e5f
    mtorl model rm challenger/0a1b2c3d4e5f

A version is named ARM/NAME, or NAME or the start of its digest where that names one model only.
docs/registry.md says how another version comes to serve.
""")

RegistryOption = Annotated[
    Path | None,
    typer.Option(
        "--registry", help="Root of the registry; by default runs/latest/registry, or else /mnt/mtorl/registry."
    ),
]
LakeOption = Annotated[
    str | None,
    typer.Option("--lake", help="Folder or URI of the lake of decisions; by default the one beside it."),
]
StateOption = Annotated[
    Path | None, typer.Option("--state", help="Folder of the state of mtorl serve; by default that of the run.")
]
NamespaceOption = Annotated[
    str, typer.Option("--namespace", "-n", help="Of a cluster, in kubectl's context. Empty: this machine.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON, with all figures, in place of words.")]
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="ARM/NAME, NAME or the start of a digest.")]


@app.command("list")
def list_versions(
    registry: RegistryOption = None,
    lake: LakeOption = None,
    state: StateOption = None,
    namespace: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """List the versions by arm, the newest first: age, data, gate, figures, and which ones serve.

        mtorl model list
        mtorl model list --registry /mnt/mtorl/registry -n mtorl --json

    A version serves if it took its arm's newest decision, if mtorl serve is to serve it, or, with -n, if an
    InferenceService names it. Exit code 2: there is no registry.
    """
    from cli.versions.tables import print_versions
    from serving.versions.catalogue import versions
    from serving.versions.description import rows_of

    uses = _uses(registry, lake, state, namespace)
    with exit_codes():
        rows = rows_of(versions(uses.registry), uses.needs(), datetime.now(UTC))
    if as_json:
        _print_json({"registry": str(uses.registry), "sources": uses.sources, "versions": rows})
        return
    print_versions(rows, uses.registry, uses.sources)


@app.command()
def show(
    version: VersionArgument,
    registry: RegistryOption = None,
    lake: LakeOption = None,
    state: StateOption = None,
    namespace: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show a version: data, code, settings, figures, the gate's report, what needs it, and its parents.

    mtorl model show challenger/0a1b2c3d4e5f
    """
    from cli.versions.tables import print_version
    from serving.versions.catalogue import find, versions
    from serving.versions.description import description_of

    uses = _uses(registry, lake, state, namespace)
    with exit_codes():
        found = description_of(find(uses.registry, version), versions(uses.registry), uses.needs())
    if as_json:
        _print_json(found)
        return
    print_version(found)


@app.command("rm")
def remove(
    version: VersionArgument,
    registry: RegistryOption = None,
    lake: LakeOption = None,
    state: StateOption = None,
    namespace: NamespaceOption = "",
) -> None:
    """Remove a version that nothing needs.

        mtorl model rm challenger/0a1b2c3d4e5f

    A version stays that serves, has taken a decision that is still in the log, is named by an experiment, is what a
    rollback goes back to, or is of the first installation. Exit code 4: it is needed, or nothing says what serves.
    """
    from serving.versions.catalogue import find, versions
    from serving.versions.pruning import locked, remove_version

    uses = _uses(registry, lake, state, namespace)
    with exit_codes():
        if not uses.sources:
            stop(
                f"nothing says which versions of {uses.registry} serve: name a lake (--lake), the "
                "state of mtorl serve (--state), or a cluster's namespace (-n)",
                HELD,
            )
        with locked(uses.registry):
            found = find(uses.registry, version)
            needs = uses.needs().with_rollbacks(versions(uses.registry))
            if reasons := needs.reasons(found):
                stop(f"{found.ref} stays: {'; '.join(reasons)}", HELD)
            remove_version(found)
    typer.echo(f"removed {found.ref}")


def _uses(registry: Path | None, lake: str | None, state: Path | None, namespace: str) -> RegistryUses:
    """A registry and what uses it, as the options name them."""
    from mtorl.experiment.budget_table import UNREAD
    from mtorl.experiment.experiment import Experiment
    from pipelines.experiments.registry_uses import RegistryUses, default_registry

    root = registry or default_registry()
    if not root.is_dir():
        stop(f"{root}: no registry there; name one with --registry", 2)
    services: list[dict[str, Any]] | None = None
    experiments: list[Experiment] = []
    if namespace:
        services = objects("inferenceservices", namespace)
        for config_map in objects("configmaps", namespace):
            if config_map["metadata"]["name"] == "mtorl-experiment":
                with exit_codes():
                    texts = (config_map.get("data") or {}).items()
                    experiments = [Experiment.from_yaml(text, UNREAD) for key, text in texts if key.endswith(".yaml")]
    with exit_codes():
        return RegistryUses(root, lake, state, services, experiments)


def _print_json(found: object) -> None:
    typer.echo(json.dumps(found, indent=2))
