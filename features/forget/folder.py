"""Finds everything that a folder stores about users, and removes it.

    report = forget("runs/latest", {"u1"}, datetime.now(UTC))
    report.removed                       # rows by store: {"data/touchpoints.parquet": 14, ...}

The folder is that of a run, the data volume of a cluster, or a part of either. It may contain

    lakes (`features/collect/removal.py`)
    Parquet tables with the column user_id or decision_id: logs, sources of features, files of a pipeline step
    windows folders, whose manifest is updated
    CSVs of quarantined rows, and of conversions that match no touchpoint
    Feast repositories: their online store, wherever it is
    artifacts, which stay but are reported

Each file is rewritten atomically, and a second run changes nothing. If a run is interrupted, the next one completes it:
outcomes and shadows, which name no user, are removed before the decisions that link them to a user.
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
# Temporary files of `replacing`, and temporary folders of commands and sinks.
_UNFINISHED, _UNFINISHED_SECONDS = re.compile(r"\..+\.[0-9a-f]{8}(\.old)?|\.(describe|scratch)-.+"), 86_400.0


@dataclass(frozen=True)
class Report:
    """The result of `forget`: counts of removed rows, and lines that describe what remains."""

    removed: Counter[str] = field(default_factory=Counter)  # removed rows or keys, by path of the store
    failed: list[str] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)  # raw files that still contain the users
    models: list[TrainedOn] = field(default_factory=list)  # models that were trained on the users, or name them


def forget(
    folder: str | Path,
    users: frozenset[str],
    now: datetime,
    before: datetime | None = None,
    feature_repo: str | Path | None = None,
    origin: Origin | None = None,
) -> Report:
    """Remove users, or old records, from all stores of a folder, and keep later writers from adding the users again.

    Args:
        now: End of the period to forget: later actions of the users stay.
        before: Decisions, outcomes and touchpoints from before this time are removed for all users.
        feature_repo: Feast repository outside the folder, whose online store belongs to the folder.
        origin: Raw files to search, in addition to those from which the folder's logs were read.
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
            # The online store comes last, so that a concurrent refresh can't read a forgotten user from the log.
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
    logs: list[Path] = field(default_factory=list)  # folders with a log and its report
    lakes: list[Path] = field(default_factory=list)
    windows: list[Path] = field(default_factory=list)
    quarantined: list[Path] = field(default_factory=list)
    repositories: list[Path] = field(default_factory=list)
    artifacts: list[Path] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)  # temporary files of killed processes

    @classmethod
    def below(cls, root: Path) -> _Found:
        """Find the stores in a folder and its subfolders, without following links."""
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
    """Removes users from stores, and reports the result."""

    def __init__(self, root: Path, users: frozenset[str], before: datetime | None) -> None:
        self.report = Report()
        self._root, self._users, self._before = root, users, before

    def lake(self, folder: Path, now: datetime) -> None:
        """Remove records of users, and hours that are too old, from a lake."""
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
        """Remove rows of users, and of their decisions, from tables."""
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
        """Run `remove` on a store, and count what it removed."""
        with self.reporting(path):
            removed = remove(path)
            if removed is not None:
                self.report.removed[self._store_of(path) + what] += removed

    @contextmanager
    def reporting(self, path: Path) -> Iterator[None]:
        """Report an error of a store that can't be read or written, so that other stores are still searched."""
        try:
            yield
        except _CAN_GO_WRONG as error:
            if path.exists():
                words = (str(error).splitlines() or [type(error).__name__])[0]
                self.report.failed.append(f"{self._store_of(path)}: {words}")

    def _store_of(self, path: Path) -> str:
        """Return the path of a store relative to the folder; the parts of a table count as one store."""
        if not path.is_relative_to(self._root):
            return str(path)
        parts = path.relative_to(self._root).parts
        table = next((i for i, part in enumerate(parts, 1) if part.endswith(".parquet")), len(parts))
        return "/".join(parts[:table]) or "."


def _is_lake(folder: Path) -> bool:
    kinds = [f"{kind}s" for kind in KINDS]
    return any(next((folder / zone / kind).glob("date=*"), None) for zone in ("", "arrived") for kind in kinds)


def _is_unfinished(path: Path) -> bool:
    """Return whether a path is temporary and its process no longer works on it."""
    try:
        age = time.time() - path.lstat().st_mtime if _UNFINISHED.fullmatch(path.name) else 0.0
    except FileNotFoundError:  # the process that wrote it has finished
        return False
    return age > _UNFINISHED_SECONDS


def _bring_up_to_date(folder: Path) -> None:
    """Update the numbers of rows and users and the fingerprint in the report of a log."""
    report = json.loads((folder / INGEST_FILE).read_text(encoding="utf-8"))
    if report.get("rows") != rows_of(folder / LOG_FILE):
        text = json.dumps(report | facts_of(folder / LOG_FILE), indent=2)
        (folder / INGEST_FILE).write_text(text, encoding="utf-8")
