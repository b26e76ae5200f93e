"""Tables of `mtorl model`: all versions, and one with its parents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

UNKNOWN = "unknown"


def print_versions(rows: Sequence[Mapping[str, Any]], registry: Path, sources: Sequence[str]) -> None:
    """Print a table of versions, and what says which ones serve."""
    console = Console()
    table = Table(title=Text(str(registry)), title_justify="left")
    for name in ("version", "serves", "age", "gate", "lift", "AUC", "data"):
        table.add_column(name, no_wrap=name != "lift", overflow="fold")
    for row in rows:
        gate, metrics = row["gate"], row["metrics"]
        missing = "none" if row["lineage"] == "known" else row["lineage"]
        table.add_row(
            Text(row["version"]),
            "yes" if row["serves"] else "",
            _age(row["age_hours"]),
            gate["decision"] if gate else missing,
            _figure(metrics["lift"], ".3f") if "lift" in metrics else missing,
            f"{metrics['reward_auc']['value']:.3f}" if "reward_auc" in metrics else missing,
            f"{row['data_set'] or ''} {str(row['data'] or UNKNOWN)[:7]}".strip(),
        )
    console.print(table)
    says = f"what serves: by {', '.join(sources)}" if sources else "nothing says what serves: see the options in -h"
    console.print(Text(says), soft_wrap=True)


def print_version(found: Mapping[str, Any]) -> None:
    """Print all that is known of a version."""
    console = Console()
    lineage, model = found["lineage"] or {}, found["model"]
    data, code, run = lineage.get("data") or {}, lineage.get("code") or {}, lineage.get("run") or {}
    lines = [
        ("digest", found["digest"]),
        ("serves", "yes" if found["serves"] else "not as far as is known"),
        *[("needed", reason) for reason in found["needed"]],
        ("published", found["published"] or f"{UNKNOWN}; trained {model['created']}"),
        ("kind", model["kind"]),
        ("data set", data.get("name") or UNKNOWN),
        ("log", data.get("log") or model["data_fingerprint"]),
        ("raw log", data.get("source") or UNKNOWN),
        ("collected", data.get("collected") or ("none" if lineage else UNKNOWN)),
        (
            "code",
            f"{code.get('package') or UNKNOWN}, commit {code.get('git_revision') or model['git_revision'] or UNKNOWN}",
        ),
        ("run", " ".join(run[part] for part in ("pipeline", "name", "id") if run.get(part)) or UNKNOWN),
        ("settings", _settings(lineage.get("settings") or {})),
    ]
    table = Table(title=Text(found["version"]), title_justify="left", show_header=False)
    table.add_column("what", no_wrap=True)
    table.add_column("value", overflow="fold")
    for name, value in lines:
        table.add_row(name, Text(str(value)))
    for name, figure in (lineage.get("metrics") or {}).items():
        table.add_row(name, _figure(figure))
    gate = lineage.get("gate")
    table.add_row("gate", Text(f"{gate['decision']}: {gate['reason']}" if gate else "none" if lineage else UNKNOWN))
    console.print(table)
    if found["problem"]:
        console.print(Text(f"its lineage can't be read: {found['problem']}"), soft_wrap=True)
    tree = Tree(Text(found["version"]))
    _grow(tree, found["parents"], known=bool(lineage))
    console.print(tree)


def _grow(tree: Tree, parents: Sequence[Mapping[str, Any]], known: bool = True) -> None:
    if not known:
        tree.add(Text(f"parents {UNKNOWN}"))
    for parent in parents:
        digest = str(parent["digest"] or "")[:12]
        name = parent["version"] or parent["policy"] or f"{digest}, which is not in the registry"
        _grow(
            tree.add(Text(f"{parent['relation']} {name}" + (f" ({digest})" if parent["version"] else ""))),
            parent["parents"],
        )


def _figure(figure: Mapping[str, Any] | None, form: str = ".4f") -> str:
    if figure is None:
        return UNKNOWN
    text = format(figure["value"], form)
    if figure["low"] is None or figure["high"] is None:
        return text
    return f"{text} \\[{figure['low']:{form}}, {figure['high']:{form}}]"  # a bracket would be Rich's markup


def _age(hours: float | None) -> str:
    if hours is None:
        return UNKNOWN
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} d"


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or UNKNOWN
