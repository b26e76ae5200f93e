"""Removes all data about some users from a folder.

    report = forget("runs/latest", {"u1"}, datetime.now(UTC))
    report.removed                       # rows by store: {"data/touchpoints.parquet": 14, ...}

These stores are searched:

    lakes (`features/collect/removal.py`)
    Parquet tables with the column user_id or decision_id
    windows folders, whose manifest is updated
    CSVs of quarantined rows, and of conversions that match no touchpoint
    Feast repositories, with their online store
    artifacts of models, which are not changed but reported

If `forget` is interrupted, another call completes it.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.collect.removal import ASIDE, drop_hours, remove_users, unreadable
from features.engine import facts_of, rows_of
from features.forget.raw_files import origins_of, remaining_rows
from features.forget.tables import DECISION, USER, Rows, remove_quarantined
from features.ingest.conversions import FILE as LEFT_OUT
from features.ingest.log_folder import Origin
from features.online.open_history import forget_online
from features.sequences import manifest
from mtorl.artifact.artifact import ArtifactError, TrainedOn, is_artifact, trained_on
from mtorl.log.forgotten import Forgotten, alone
from mtorl.log.lake import Lake
from mtorl.log.records import KINDS
from mtorl.log.touchpoints import INGEST_FILE, LOG_FILE, LogError
from mtorl.runtime import progress

_SETTINGS = "feature_store.yaml"
_QUARANTINE = re.compile(rf"quarantine|(.+\.)?quarantine\.csv|{re.escape(LEFT_OUT)}")
_CAN_GO_WRONG = (LogError, OSError, ValueError, sqlite3.Error, pa.ArrowException, manifest.ManifestError, ArtifactError)
# Names of temporary files. If such a file is over a day old, its process was probably killed.
_UNFINISHED, _UNFINISHED_SECONDS = re.compile(r"\..+\.[0-9a-f]{8}(\.old)?|\.(describe|scratch)-.+"), 86_400.0


@dataclass(frozen=True)
class Report:
    """The result of `forget`.

    Attributes:
        removed: Maps the path of each file or folder to the number of rows or keys that were removed from it.
    """

    removed: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    models: list[TrainedOn] = field(default_factory=list)


def forget(
    folder: str | Path,
    users: frozenset[str],
    now: datetime,
    before: datetime | None = None,
    feature_repo: str | Path | None = None,
    origin: Origin | None = None,
) -> Report:
    """Remove users from all stores in a folder, and list them as forgotten.

    Args:
        now: Time of the request. A user who comes back after this time counts as a new user.
        before: Also remove all decisions, outcomes and touchpoints that are older than this time.
        feature_repo: Feast repository outside the folder. The users are removed from its online store, too.

    Raises:
        LogError: `feature_repo` is not a Feast repository.
    """
    root = Path(folder).resolve()
    if feature_repo and not (Path(feature_repo) / _SETTINGS).exists():
        raise LogError(f"{feature_repo}: not a Feast repository, since it has no {_SETTINGS}")
    with alone(root):
        Forgotten.add(root, users, now, before=before)
        found = _Found.below(root)
        work = _Work(root, users, before)
        work.report.failed.extend(
            f"{path.relative_to(root)}: left by a process that was killed, so it was not searched. Delete it"
            for path in found.unfinished
        )
        for lake in found.lakes:
            work.lake(lake, now)
        work.tables(found.tables)
        for log in found.logs:
            with work.reporting(log):
                _bring_up_to_date(log)
        if users:
            for windows in found.windows:
                work.each(windows, lambda path: manifest.remove_users(path, users))
            for table in found.quarantined:
                work.each(table, lambda path: remove_quarantined(path, users))
            # Do this last: a feature refresh could otherwise read the users from the log and write them again.
            for repo in [*found.repositories, *([Path(feature_repo).resolve()] if feature_repo else [])]:
                work.each(repo, lambda path: forget_online(path, users), " (online store)")
            with work.reporting(root):
                work.report.models.extend(trained_on(found.artifacts, users))
            with work.reporting(root):
                origins = [*origins_of(found.logs), *([origin] if origin else [])]
                work.report.raw.extend(dict.fromkeys(line for one in origins for line in remaining_rows(one, users)))
    return work.report


@dataclass
class _Found:
    tables: list[Path] = field(default_factory=list)
    # Folders that contain a log and its report.
    logs: list[Path] = field(default_factory=list)
    lakes: list[Path] = field(default_factory=list)
    windows: list[Path] = field(default_factory=list)
    quarantined: list[Path] = field(default_factory=list)
    repositories: list[Path] = field(default_factory=list)
    artifacts: list[Path] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)  # files left by processes that were killed

    @classmethod
    def below(cls, root: Path) -> _Found:
        """Find all stores in a folder and its subfolders. Links are not followed."""
        found = cls()

        def unreadable(error: OSError) -> None:
            raise error

        for name, folders, files in os.walk(root, onerror=unreadable):
            place = Path(name)
            found.unfinished += [place / inner for inner in sorted([*folders, *files]) if _is_unfinished(place / inner)]
            folders[:] = sorted(inner for inner in folders if not inner.startswith((".", "_")))
            if is_artifact(place):
                found.artifacts.append(place)
                continue
            if _is_lake(place):
                found.lakes.append(place)
                folders.clear()
                continue
            if manifest.FILE in files and manifest.STEPS in folders:
                found.windows.append(place)
                folders.remove(manifest.STEPS)
            if _SETTINGS in files:
                found.repositories.append(place)
            if {LOG_FILE, INGEST_FILE} <= {*files, *folders}:
                found.logs.append(place)
            for file in sorted(files):
                path = place / file
                if file.startswith((".", "_")) or path.is_symlink():
                    continue
                if path.suffix == ".parquet":
                    found.tables.append(path)
                elif _QUARANTINE.fullmatch(file):
                    found.quarantined.append(path)
        return found


class _Work:
    """Removes users from the stores of one folder, and collects the results in a `Report`."""

    def __init__(self, root: Path, users: frozenset[str], before: datetime | None) -> None:
        self.report = Report()
        self._root, self._users, self._before = root, users, before

    def lake(self, folder: Path, now: datetime) -> None:
        with self.reporting(folder):
            lake = Lake.open(folder)
            removed = remove_users(lake, Forgotten().extended(self._users, now))
            if self._before is not None:
                removed += drop_hours(lake, self._before)
            store = self._store_of(folder)
            self.report.failed.extend(ASIDE.format(f"{store}/{name}") for name in unreadable(lake))
            for name in (f"{kind}s" for kind in KINDS):
                self.report.removed[name if store == "." else f"{store}/{name}"] += removed[name]

    def tables(self, paths: list[Path]) -> None:
        """Remove the users' rows from Parquet tables. In tables without user ids, decision ids identify the rows."""
        rows, ids = Rows(self._users, before=self._before), set[str]()
        of_users, of_decisions = [], []
        for path in paths:
            with self.reporting(path):
                columns = set(pq.read_schema(path).names)
                if USER in columns:
                    of_users.append(path)
                    ids |= rows.decisions_in(path)
                elif DECISION in columns:
                    of_decisions.append(path)
        rows = replace(rows, decisions=frozenset(ids))
        todo = [*of_decisions, *of_users]
        for done, path in enumerate(todo, 1):
            self.each(path, rows.remove)
            progress.report(done, len(todo), f"{done} of {len(todo)} tables")

    def each(self, path: Path, remove: Callable[[Path], int | None], what: str = "") -> None:
        """Remove the users from one store by calling `remove`, and report the number of removed rows."""
        with self.reporting(path):
            removed = remove(path)
            if removed is not None:
                self.report.removed[self._store_of(path) + what] += removed

    @contextmanager
    def reporting(self, path: Path) -> Iterator[None]:
        """Report that a store can't be read or written, instead of raising the error."""
        try:
            yield
        except _CAN_GO_WRONG as error:
            if path.exists():
                words = (str(error).splitlines() or [type(error).__name__])[0]
                self.report.failed.append(f"{self._store_of(path)}: {words}")

    def _store_of(self, path: Path) -> str:
        """Return the path that the report gives for a file. All parts of a table have the same path."""
        if not path.is_relative_to(self._root):
            return str(path)
        parts = path.relative_to(self._root).parts
        table = next((i for i, part in enumerate(parts, 1) if part.endswith(".parquet")), len(parts))
        return "/".join(parts[:table]) or "."


def _is_lake(folder: Path) -> bool:
    kinds = [f"{kind}s" for kind in KINDS]
    return any(next((folder / zone / kind).glob("date=*"), None) for zone in ("", "arrived") for kind in kinds)


def _is_unfinished(path: Path) -> bool:
    try:
        age = time.time() - path.lstat().st_mtime if _UNFINISHED.fullmatch(path.name) else 0.0
    except FileNotFoundError:  # its process has just renamed or deleted it
        return False
    return age > _UNFINISHED_SECONDS


def _bring_up_to_date(folder: Path) -> None:
    """Update the number of rows, the number of users and the fingerprint in a log's report."""
    report = json.loads((folder / INGEST_FILE).read_text(encoding="utf-8"))
    if report.get("rows") != rows_of(folder / LOG_FILE):
        text = json.dumps(report | facts_of(folder / LOG_FILE), indent=2)
        (folder / INGEST_FILE).write_text(text, encoding="utf-8")
