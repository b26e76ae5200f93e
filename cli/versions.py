"""The commands `mtorl model ...`, which list, show and remove the versions of a model registry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from rich.tree import Tree

from cli.commands import CommandGroup, JsonOption, print_json
from cli.endings import HELD, exit_codes, stop
from serving.messages import SERVING_UNKNOWN

if TYPE_CHECKING:
    from pipelines.experiments.versions_in_use import VersionsInUse

app = CommandGroup("""List, show and remove the versions of a model registry, and print those that serve.

    mtorl model list
    mtorl model show challenger/0a1b2c3d4e5f
    mtorl model rm challenger/0a1b2c3d4e5f
    mtorl model versions -n mtorl --write models.yaml

Name a version ARM/NAME. NAME or the start of its digest is enough if only one version matches.
docs/registry.md describes how to serve another version.
""")

RegistryOption = Annotated[
    Path | None,
    typer.Option(
        "--registry", help="Root of the registry. Default: runs/latest/registry if it exists, or /mnt/mtorl/registry."
    ),
]
LakeOption = Annotated[
    str | None, typer.Option("--lake", help="Folder or URI of the lake. Default: the lake next to the registry.")
]
StateOption = Annotated[
    Path | None, typer.Option("--state", help="State folder of mtorl serve. Default: that of the run.")
]
NamespaceOption = Annotated[
    str, typer.Option("--namespace", "-n", help="Namespace in kubectl's cluster. Empty: no cluster.")
]
VersionArgument = Annotated[str, typer.Argument(metavar="VERSION", help="ARM/NAME, NAME or the start of a digest.")]


_UNKNOWN = "unknown"


@app.command("list")
def list_versions(
    registry: RegistryOption = None,
    lake: LakeOption = None,
    state: StateOption = None,
    namespace: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """List the versions by arm, newest first: age, data, gate, figures, and which versions serve.

        mtorl model list
        mtorl model list --registry /mnt/mtorl/registry -n mtorl --json

    A version counts as serving if it made the newest decision of its arm, or if mtorl serve is set to serve it. With
    -n, it also counts if an InferenceService names it. Exit code 2: there is no registry.
    """
    from serving.versions.catalogue import versions
    from serving.versions.description import description_of

    uses = _uses(registry, lake, state, namespace)
    with exit_codes():
        known, needs = versions(uses.registry), uses.needs()
        rows = [description_of(one, known, needs) for one in known]
    if as_json:
        print_json({"registry": str(uses.registry), "sources": uses.sources, "versions": rows})
        return
    _print_versions(rows, uses.registry, uses.sources)


@app.command()
def show(
    version: VersionArgument,
    registry: RegistryOption = None,
    lake: LakeOption = None,
    state: StateOption = None,
    namespace: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show a version: data, code, settings, figures, gate report, uses that prevent its removal, and parents.

        mtorl model show challenger/0a1b2c3d4e5f

    With --json, the same data are printed as JSON.
    """
    from serving.versions.catalogue import find, versions
    from serving.versions.description import description_of

    uses = _uses(registry, lake, state, namespace)
    with exit_codes():
        found = description_of(find(uses.registry, version), versions(uses.registry), uses.needs())
    if as_json:
        print_json(found)
        return
    _print_version(found)


@app.command("versions")
def versions_of_cluster(
    namespace: NamespaceOption = "mtorl",
    write: Annotated[
        Path | None, typer.Option("--write", help="models.yaml of an overlay, in which to replace the versions.")
    ] = None,
) -> None:
    """Print the version that each arm's InferenceService should serve, and write it into an overlay's models.yaml.

        mtorl model versions -n mtorl
        mtorl model versions -n mtorl --write overlays/production/models.yaml

    Normally, this is the version that the InferenceService serves. But if `kubectl apply` has undone a promotion or a
    rollback, it is the version that the promotion or rollback had set. manifests/examples/gitops commits the file. Exit
    code 2: the cluster does not answer, or the file has no line for an arm.
    """
    from serving.inference_services import versions_to_write
    from serving.messages import NO_SERVED_VERSION
    from serving.versions.models_file import write_versions

    experiments = objects("experiments", namespace)
    phases = {str(one["metadata"]["name"]): str(one.get("status", {}).get("phase")) for one in experiments}
    versions = versions_to_write(objects("inferenceservices", namespace), phases)
    if not versions:
        stop(NO_SERVED_VERSION(namespace=namespace), 2)
    if write is not None:
        with exit_codes():
            write_versions(write, versions)
    for arm, version in sorted(versions.items()):
        typer.echo(f"{arm}: {version}")


@app.command("rm")
def remove(
    version: VersionArgument,
    registry: RegistryOption = None,
    lake: LakeOption = None,
    state: StateOption = None,
    namespace: NamespaceOption = "",
) -> None:
    """Remove a version that is no longer needed.

        mtorl model rm challenger/0a1b2c3d4e5f

    A version is needed if it serves, has decisions in the log, is named by an experiment, is the target of a rollback,
    or belongs to the first installation. Exit code 4: the version is needed, or it is unknown which versions serve.
    """
    from serving.versions.catalogue import find, versions
    from serving.versions.pruning import locked, remove_version

    uses = _uses(registry, lake, state, namespace)
    with exit_codes():
        if not uses.sources:
            stop(SERVING_UNKNOWN(registry=uses.registry), HELD)
        with locked(uses.registry):
            found = find(uses.registry, version)
            needs = uses.needs().with_rollbacks(versions(uses.registry))
            if reasons := needs.reasons(found):
                stop(f"{found.ref} can't be removed: {'; '.join(reasons)}", HELD)
            remove_version(found)
    typer.echo(f"removed {found.ref}")


def _uses(registry: Path | None, lake: str | None, state: Path | None, namespace: str) -> VersionsInUse:
    from mtorl.experiment.budget_table import UNREAD
    from mtorl.experiment.experiment import Experiment
    from pipelines.experiments.versions_in_use import VersionsInUse, default_registry

    root = registry or default_registry()
    if not root.is_dir():
        stop(f"{root}: there is no registry; name one with --registry", 2)
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
        return VersionsInUse(root, lake, state, services, experiments)


def objects(kind: str, namespace: str) -> list[dict[str, Any]]:
    """List the objects of one kind in a namespace, or exit with a message."""
    from serving.kubernetes_api import KubernetesApi

    with exit_codes():
        return KubernetesApi(namespace).list(kind)


def _print_versions(rows: Sequence[Mapping[str, Any]], registry: Path, sources: Sequence[str]) -> None:
    console = Console()
    names = ("version", "serves", "age", "gate", "lift", "AUC", "data")
    columns = (Column(name, no_wrap=name != "lift", overflow="fold") for name in names)
    table = Table(*columns, title=Text(str(registry)), title_justify="left")
    for row in rows:
        lineage = row["lineage"] or {}
        gate, auc = lineage.get("gate"), lineage.get("metrics", {}).get("reward_auc")
        missing, data = "none" if lineage else "unreadable", str(row["model"]["data_fingerprint"] or _UNKNOWN)
        table.add_row(
            Text(row["version"]),
            "yes" if row["serves"] else "",
            _age(row["published"]),
            gate["decision"] if gate else missing,
            _figure(gate["lift"], ".3f") if gate and gate["lift"] else missing,
            f"{auc['value']:.3f}" if auc else missing,
            f"{lineage.get('data', {}).get('name', '')} {data[:7]}".strip(),
        )
    console.print(table)
    says = f"serving, according to {', '.join(sources)}" if sources else "serving versions unknown: see -h for sources"
    console.print(Text(says), soft_wrap=True)


def _print_version(found: Mapping[str, Any]) -> None:
    console = Console()
    lineage, model = found["lineage"] or {}, found["model"]
    data, code, run = lineage.get("data") or {}, lineage.get("code") or {}, lineage.get("run") or {}
    settings = ", ".join(f"{name} {value}" for name, value in (lineage.get("settings") or {}).items())
    revision = code.get("git_revision") or model["git_revision"]
    lines = [
        ("digest", found["digest"]),
        ("serves", "yes" if found["serves"] else "not known to serve"),
        *[("needed", reason) for reason in found["needed"]],
        ("published", found["published"] or f"{_UNKNOWN}; trained {model['created']}"),
        ("kind", model["kind"]),
        ("data set", data.get("name") or _UNKNOWN),
        ("log", data.get("log") or model["data_fingerprint"]),
        ("raw log", data.get("source") or _UNKNOWN),
        ("collected", data.get("collected") or ("none" if lineage else _UNKNOWN)),
        ("code", f"{code.get('package') or _UNKNOWN}, commit {revision or _UNKNOWN}"),
        ("run", " ".join(run[part] for part in ("pipeline", "name", "id") if run.get(part)) or _UNKNOWN),
        ("settings", settings or _UNKNOWN),
    ]
    columns = (Column(no_wrap=True), Column(overflow="fold"))
    table = Table(*columns, title=Text(found["version"]), title_justify="left", show_header=False)
    for name, value in lines:
        table.add_row(name, Text(str(value)))
    for name, figure in (lineage.get("metrics") or {}).items():
        table.add_row(name, _figure(figure))
    gate = lineage.get("gate")
    table.add_row("gate", Text(f"{gate['decision']}: {gate['reason']}" if gate else "none" if lineage else _UNKNOWN))
    console.print(table)
    if found["problem"]:
        console.print(Text(f"the version's lineage can't be read: {found['problem']}"), soft_wrap=True)
    tree = Tree(Text(found["version"]))
    _grow(tree, found["parents"], known=bool(lineage))
    console.print(tree)


def _grow(tree: Tree, parents: Sequence[Mapping[str, Any]], known: bool = True) -> None:
    if not known:
        tree.add(Text(f"parents {_UNKNOWN}"))
    for parent in parents:
        digest = str(parent["digest"] or "")[:12]
        name = parent["version"] or parent["policy"] or f"{digest}, which is not in the registry"
        said = f"{parent['relation']} {name}" + (f" ({digest})" if parent["version"] else "")
        _grow(tree.add(Text(said)), parent["parents"])


def _figure(figure: Mapping[str, Any] | None, form: str = ".4f") -> str:
    if figure is None:
        return _UNKNOWN
    text = format(figure["value"], form)
    if figure["low"] is None or figure["high"] is None:
        return text
    # Escaped, because Rich reads brackets as markup.
    return f"{text} \\[{figure['low']:{form}}, {figure['high']:{form}}]"


def _age(published: str | None) -> str:
    if published is None:
        return _UNKNOWN
    hours = (datetime.now(UTC) - datetime.fromisoformat(published)).total_seconds() / 3600
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} d"
