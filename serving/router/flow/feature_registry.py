"""Whether a feature repository has its registry yet: what Feast knows of its views and services.

A training pipeline or `mtorl bootstrap` writes it. Opening a repository without one would make Feast write an empty
registry, so the router looks first, and waits. Feast also writes in place: for a moment there may be half a registry.
"""

from __future__ import annotations

import time
from pathlib import Path

_WRITING_SECONDS = 10.0  # a registry that is younger, and can't be used, may still be being written


class RegistryAwaited(RuntimeError):
    """There is no whole registry yet; the message says who makes one."""


def registry_file(repo: Path) -> Path | None:
    """The registry that feature_store.yaml names; None: it is not in a file.

    Args:
        repo: Folder with feature_store.yaml.
    """
    from feast.repo_config import load_repo_config

    registry = load_repo_config(repo, repo / "feature_store.yaml").registry
    if registry.registry_type != "file" or "://" in registry.path:
        return None
    return repo / registry.path


def check_registry(file: Path | None) -> None:
    """Raise RegistryAwaited if there is none."""
    if file is not None and not file.exists():
        raise RegistryAwaited(
            f"no feature registry yet at {file}: run mtorl bootstrap or the training pipeline (docs/cluster.md)"
        )


def check_settled(file: Path | None) -> None:
    """Raise RegistryAwaited if a registry that can't be used is so young that it may still be being written."""
    if file is not None and file.exists() and time.time() - file.stat().st_mtime < _WRITING_SECONDS:
        raise RegistryAwaited(f"the feature registry at {file} is being written")
