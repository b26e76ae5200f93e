"""Converts versions of the registry to plain values."""

from collections.abc import Sequence
from typing import Any

from serving.versions.catalogue import Version
from serving.versions.need import Needs


def description_of(version: Version, known: Sequence[Version], needs: Needs) -> dict[str, Any]:
    """Return all data of a version, including its ancestors from `known`."""
    keys = ("kind", "created", "git_revision", "data_fingerprint", "simulated")
    model = {key: version.model.get(key) for key in keys}
    return {
        "version": version.ref,
        "artifact_version": version.version,
        "digest": version.digest,
        "folder": str(version.folder),
        "serves": needs.serves(version),
        "needed": needs.reasons(version),
        "published": None if version.published is None else version.published.isoformat(timespec="seconds"),
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
