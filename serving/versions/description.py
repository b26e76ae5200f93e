"""Versions as plain values, for tables and JSON.

rows = rows_of(versions(registry), needs, now)
one = description_of(version, versions(registry), needs)
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from mtorl.artifact.lineage import Lineage
from serving.versions.catalogue import Version
from serving.versions.need import Needs


def rows_of(known: Sequence[Version], needs: Needs, now: datetime) -> list[dict[str, Any]]:
    """A row for each version."""
    return [
        {
            "version": version.ref,
            "digest": version.digest,
            "serves": needs.serves(version),
            "needed": needs.reasons(version),
            "published": _iso(version.published),
            "age_hours": None if version.published is None else (now - version.published).total_seconds() / 3600,
            "data_set": None if version.lineage is None else version.lineage.data.name,
            "data": version.model.get("data_fingerprint"),
            "simulated": bool(version.model.get("simulated", False)),
            "gate": gate.model_dump(mode="json") if (gate := version.lineage and version.lineage.gate) else None,
            "metrics": _figures(version.lineage),
            "lineage": "unreadable" if version.problem else "known",
        }
        for version in known
    ]


def description_of(version: Version, known: Sequence[Version], needs: Needs) -> dict[str, Any]:
    """Everything that is known of a version; its parents are looked up among `known`."""
    model = {
        key: version.model.get(key) for key in ("kind", "created", "git_revision", "data_fingerprint", "simulated")
    }
    return {
        "version": version.ref,
        "artifact_version": version.version,
        "digest": version.digest,
        "folder": str(version.folder),
        "serves": needs.serves(version),
        "needed": needs.reasons(version),
        "published": _iso(version.published),
        "model": model,
        "lineage": None if version.lineage is None else version.lineage.model_dump(mode="json"),
        "problem": version.problem or None,
        "parents": _parents(version, known, frozenset({version.digest})),
    }


def _parents(version: Version, known: Sequence[Version], seen: frozenset[str]) -> list[dict[str, Any]]:
    found = []
    for parent in () if version.lineage is None else version.lineage.parents:
        there = next((one for one in known if one.digest == parent.digest), None)
        older = [] if there is None or there.digest in seen else _parents(there, known, seen | {there.digest})
        found.append(
            {
                "relation": parent.relation,
                "digest": parent.digest,
                "policy": parent.policy,
                "version": None if there is None else there.ref,
                "parents": older,
            }
        )
    return found


def _figures(lineage: Lineage | None) -> dict[str, Any]:
    if lineage is None:
        return {}
    lift = {} if lineage.gate is None else {"lift": lineage.gate.lift}
    return {name: figure.model_dump() for name, figure in {**lift, **lineage.metrics}.items()}


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="seconds")
