"""Versions as people see them: a list, one with its parents, two side by side. Plain values, ready for JSON.

rows = listed(versions(registry), needs, now)
tree = told(version, versions(registry), needs)
both = compared(one, other)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import yaml

from mtorl.artifact.lineage import Figure, Lineage
from serving.versions.catalogue import Version, with_digest
from serving.versions.need import Needs


def listed(known: Sequence[Version], needs: Needs, now: datetime) -> list[dict[str, Any]]:
    """A row for each version.

    Args:
        known: The versions.
        needs: What needs them.
        now: The present.
    """
    return [
        {
            "version": version.ref,
            "digest": version.digest,
            "serves": needs.serves(version),
            "needed": needs.reasons(version),
            "published": _iso(version.published),
            "age_hours": None if version.published is None else (now - version.published).total_seconds() / 3600,
            "data": version.model.get("data_fingerprint"),
            "simulated": bool(version.model.get("simulated", False)),
            "gate": None if version.lineage is None or version.lineage.gate is None else _gate(version.lineage),
            "metrics": _figures(version.lineage),
            "lineage": "unreadable" if version.problem else "unknown" if version.lineage is None else "known",
        }
        for version in known
    ]


def told(version: Version, known: Sequence[Version], needs: Needs) -> dict[str, Any]:
    """All that is known of a version.

    Args:
        version: The version.
        known: All versions, among which its parents are sought.
        needs: What needs it.
    """
    return {
        "version": version.ref,
        "artifact_version": version.version,
        "digest": version.digest,
        "folder": str(version.folder),
        "serves": needs.serves(version),
        "needed": needs.reasons(version),
        "published": _iso(version.published),
        "model": {
            key: version.model.get(key) for key in ("kind", "created", "git_revision", "data_fingerprint", "simulated")
        },
        "lineage": None if version.lineage is None else version.lineage.model_dump(mode="json"),
        "problem": version.problem or None,
        "parents": _parents(version, known, frozenset({version.digest})),
    }


def compared(one: Version, other: Version) -> dict[str, Any]:
    """Two versions side by side: figures, and what differs in data, code and settings.

    Figures of two evaluations are of two samples of users, unless the data are the same.

    Args:
        one: A version.
        other: Another one.
    """
    figures = [_figures(version.lineage) or _of_artifact(version) for version in (one, other)]
    facts = [_facts(version) for version in (one, other)]
    names = [name for name in dict.fromkeys([*figures[0], *figures[1]])]
    return {
        "versions": [one.ref, other.ref],
        "same_model": one.digest == other.digest,
        "same_data": facts[0].get("data.log") == facts[1].get("data.log"),
        "figures": {name: [figure.get(name) for figure in figures] for name in names},
        "differs": {
            name: [fact.get(name) for fact in facts]
            for name in dict.fromkeys([*facts[0], *facts[1]])
            if facts[0].get(name) != facts[1].get(name)
        },
    }


def _parents(version: Version, known: Sequence[Version], seen: frozenset[str]) -> list[dict[str, Any]]:
    found = []
    for parent in () if version.lineage is None else version.lineage.parents:
        there = with_digest(known, parent.digest) if parent.digest else None
        found.append(
            {
                "relation": parent.relation,
                "digest": parent.digest,
                "policy": parent.policy,
                "version": None if there is None else there.ref,
                "parents": []
                if there is None or there.digest in seen
                else _parents(there, known, seen | {there.digest}),
            }
        )
    return found


def _facts(version: Version) -> dict[str, Any]:
    """What a model was made of, by name: known of every version, and more of one with a lineage."""
    facts: dict[str, Any] = {
        "data.log": version.model.get("data_fingerprint"),
        "data.simulated": version.model.get("simulated"),
        "code.git_revision": version.model.get("git_revision"),
        "kind": version.model.get("kind"),
    }
    artifact = version.folder / "artifact"
    facts |= {f"dataset.{key}": value for key, value in _read(artifact / "dataset.yaml").items()}
    facts |= {f"policy.{key}": value for key, value in _read(artifact / "policy.json").items()}
    if version.lineage is not None:
        facts |= {"data.source": version.lineage.data.source, "data.collected": version.lineage.data.collected}
        facts["code.package"] = version.lineage.code.package
        facts |= {f"setting.{key}": value for key, value in version.lineage.settings.items()}
    return facts


def _read(path: Any) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _of_artifact(version: Version) -> dict[str, Any]:
    """Without a lineage: the figures of the artifact, of the users on whom training stopped."""
    try:
        metrics = json.loads((version.folder / "artifact" / "metrics.json").read_text(encoding="utf-8"))
        low, high = metrics["reward_auc_ci"]
        return {"reward_auc_on_validation": Figure(value=metrics["reward_auc"], low=low, high=high).model_dump()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _figures(lineage: Lineage | None) -> dict[str, Any]:
    if lineage is None:
        return {}
    lift = {} if lineage.gate is None else {"lift": lineage.gate.lift}
    return {name: figure.model_dump() for name, figure in {**lift, **lineage.metrics}.items()}


def _gate(lineage: Lineage) -> dict[str, Any]:
    assert lineage.gate is not None, "asked for where there is one"
    return lineage.gate.model_dump(mode="json")


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="seconds")
