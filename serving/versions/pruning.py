"""Removes old versions from the registry."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtorl.runtime.files import remove
from mtorl.runtime.locks import locked as lock_file
from serving.registry import RegistryError
from serving.versions.catalogue import Version, versions
from serving.versions.need import Needs

KEEP = 30  # newest versions of each arm
_REMOVED = ".removed"
_LOCK_SECONDS = 60.0
_ABANDONED_SECONDS = 24 * 3600.0


def prune(registry: Path, needs: Needs, keep: int = KEEP) -> list[Version]:
    """Remove the versions that are not needed, except the newest `keep` of each arm; returns the removed versions.

    The caller must hold the registry's lock.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    _tidy(registry)
    known = versions(registry)
    needs = needs.with_rollbacks(known)
    gone, seen = [], dict.fromkeys((version.arm for version in known), 0)
    for version in known:
        seen[version.arm] += 1
        # Without its lineage, a version's age is unknown.
        if seen[version.arm] > keep and version.lineage is not None and not needs.reasons(version):
            remove_version(version)
            gone.append(version)
    return gone


def _tidy(registry: Path) -> None:
    """Delete incomplete removals, and unfinished copies older than a day."""
    for leftover in registry.glob("*/.*"):
        if leftover.name.endswith(_REMOVED) or time.time() - leftover.stat().st_mtime > _ABANDONED_SECONDS:
            remove(leftover)


def remove_version(version: Version) -> None:
    """Remove a version, even if it is needed. The caller must hold the registry's lock."""
    folder = version.folder
    hidden = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}{_REMOVED}")
    os.rename(folder, hidden)
    remove(hidden)


@contextmanager
def locked(registry: Path, wait_seconds: float = _LOCK_SECONDS) -> Iterator[None]:
    """Lock the registry. Raises RegistryError after `wait_seconds`."""
    registry.mkdir(parents=True, exist_ok=True)
    path = registry / ".lock"
    busy = RegistryError(f"{path}: locked by another process for {wait_seconds:g} s; find it with fuser {path}")
    with lock_file(path, busy, wait_seconds=wait_seconds):
        yield
