"""What is known of a user: one read of Feast's online store, in this process, off the event loop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from serving.router.config import ConfigError


@dataclass(frozen=True)
class UserFeatures:
    """The hist_* lists (oldest first) and the static features; null where nothing is known."""

    history: dict[str, Any]
    static: dict[str, Any]
    found: bool  # whether the user has a history


class FeatureSource(Protocol):
    """Reads features; blocks."""

    def read(self, user_ids: Sequence[str]) -> list[UserFeatures]:
        """One answer for each user, in order."""


class FeastSource:
    """A Feast repository.

    Args:
        repo: Folder with feature_store.yaml.
        service: Name of the feature service. It is looked up once: doing so on every read costs ten times the read.

    Raises:
        ConfigError: no such repository, or no such service in it.
    """

    def __init__(self, repo: Path, service: str) -> None:
        with _without_torch():
            from feast import FeatureStore
        try:
            self._store = FeatureStore(repo_path=str(repo))
            self._service = self._store.get_feature_service(service)
        except Exception as error:  # Feast has one of its own for everything
            raise ConfigError(f"feature_repo: {repo}: {type(error).__name__}: {error}") from error

    def read(self, user_ids: Sequence[str]) -> list[UserFeatures]:
        """See `FeatureSource`."""
        from feast.type_map import feast_value_type_to_python_type as plain

        answer = self._store.get_online_features(
            features=self._service, entity_rows={"user_id": list(dict.fromkeys(user_ids))}
        ).proto
        # By name, for Feast's order of features differs between processes; by null, for an unknown user's status
        # differs between stores.
        columns = dict(zip(answer.metadata.feature_names.val, answer.results, strict=True))
        users = {}
        for row, user_id in enumerate(dict.fromkeys(user_ids)):
            values = {name: plain(column.values[row]) for name, column in columns.items() if name != "user_id"}
            users[user_id] = UserFeatures(
                history={name: value for name, value in values.items() if name.startswith("hist_")},
                static={name: value for name, value in values.items() if not name.startswith("hist_")},
                found=values.get("hist_channel") is not None,
            )
        return [users[user_id] for user_id in user_ids]


class FeatureReader:
    """A feature source for the event loop.

    Args:
        source: Where to read.
        threads: Reads at a time.
    """

    def __init__(self, source: FeatureSource, threads: int = 4) -> None:
        self._source = source
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="features")

    async def read(self, user_ids: Sequence[str]) -> list[UserFeatures]:
        """One answer for each user, in order."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._source.read, user_ids)

    def close(self) -> None:
        """Stop without waiting for a store that hangs."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _without_torch() -> Iterator[None]:
    """Feast imports torch, where it is installed, for a method that nobody calls here: seconds, and 200 MB."""
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None  # type: ignore[assignment]  # Python's own way to say: not there
    try:
        yield
    finally:
        if absent:
            del sys.modules["torch"]
