"""Opens the user histories in a repository's online store, SQLite or Redis, and removes forgotten users from them."""

from __future__ import annotations

import json
from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from features.messages import OTHER_STORE
from features.online.history import History, HistoryError
from mtorl.log.dataset import DatasetSpec
from mtorl.window.window import HISTORY, history_types

if TYPE_CHECKING:
    from feast import RepoConfig


def open_history(repo: Path | str, spec: DatasetSpec) -> History:
    """Open the online store of a Feast repository to write histories.

    Raises:
        HistoryError: The repository was created for other columns, or its online store is neither SQLite nor Redis.
    """
    from feast import FeatureStore
    from feast.errors import FeatureViewNotFoundException

    store = FeatureStore(repo_path=str(repo))
    try:
        view = store.get_feature_view(HISTORY)
    except FeatureViewNotFoundException:
        raise HistoryError(f"{repo}: has no view {HISTORY}. The pipeline or `store.create` creates it") from None
    columns = view.features[0].tags.get("columns") if view.features else None
    if columns != json.dumps(history_types(spec)):
        differing = sorted(json.loads(columns or "{}").items() ^ history_types(spec).items())
        names = [*dict.fromkeys(name for name, _ in differing)]
        raise HistoryError(OTHER_STORE(repo=repo, view=HISTORY, dataset=spec.name, columns=names))
    return History(spec, _module(repo, store.config).Store(store.config, view))


def forget_online(repo: Path, users: Collection[str]) -> int:
    """Remove users, and the feed's notes about them, from an online store. Returns how many users were found.

    Raises:
        HistoryError: The online store is neither SQLite nor Redis, or it does not respond.
    """
    from feast.repo_config import FeastConfigError, load_repo_config

    try:
        config = load_repo_config(repo, repo / "feature_store.yaml")
    except FeastConfigError as error:
        raise HistoryError(f"{repo}: {error}") from None
    removed: int = _module(repo, config).forget(config, users)
    return removed


def _module(repo: Path | str, config: RepoConfig) -> ModuleType:
    kind = config.online_store.type
    if kind not in ("sqlite", "redis"):
        raise HistoryError(f"{repo}: can't write to an online store of type {kind!r}. Use sqlite or redis")
    return import_module(f"features.online.{kind}_store")  # importing Feast takes seconds
