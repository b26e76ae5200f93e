"""Finds all that a folder keeps of users, and removes it.

    report = forget("runs/latest", {"u1"}, datetime.now(UTC))
    report.removed                       # rows by store: {"data/touchpoints.parquet": 14, ...}

A folder is that of a run, the data volume of a cluster, or any part of these:

    lakes (`features/collect/removal.py`)
    Parquet tables with the column user_id or decision_id: logs, sources of features, files of a pipeline's step
    folders of windows, whose manifest stays true
    CSVs of quarantined rows, and of conversions that count for no touchpoint
    Feast repositories: their online store, wherever that is
    artifacts, which stay, and are named

Each file is rewritten in one step, and a second run does nothing. The next run completes an interrupted one: outcomes
and shadows, which name no user, go before the decisions that name theirs.
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
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq

from features.collect.removal import ASIDE, drop_hours, remove_users, unreadable
from features.engine import parquet_files
from features.forget.raw_files import origins_of, still_in
from features.forget.tables import DECISION, USER, Rows, remove_quarantined
from features.ingest.conversions import FILE as LEFT_OUT
from features.ingest.log_folder import Origin
from features.online.open_history import forget_online
from features.sequences import manifest
from mtorl.artifact.artifact import ArtifactError, TrainedOn, is_artifact, trained_on
from mtorl.log.forgotten import Forgotten, alone
from mtorl.log.lake import Lake
from mtorl.log.records import Kind
from mtorl.log.touchpoints import INGEST_FILE, LOG_FILE, LogError, fingerprint
from mtorl.runtime import progress

_SETTINGS = "feature_store.yaml"
_QUARANTINE = re.compile(rf"quarantine|(.+\.)?quarantine\.csv|{re.escape(LEFT_OUT)}")
_CAN_GO_WRONG = (LogError, OSError, ValueError, sqlite3.Error, pa.ArrowException, manifest.ManifestError, ArtifactError)
# What `replacing` writes to, and folders in which a command or a sink works.
_UNFINISHED, _UNFINISHED_SECONDS = re.compile(r"\..+\.[0-9a-f]{8}(\.old)?|\.(describe|scratch)-.+"), 86_400.0


@dataclass(frozen=True)
class Report:
    """Findings of a run, in words where they are texts.

    Attributes:
        removed: How many rows or keys each store lost, by its place in the folder; 0 if it had none.
        raw: Raw files of logs in which the users still are.
        models: Models that were trained on the users, or name them.
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
    """Take users, or what is old, out of all that a folder keeps, and keep them from coming back.

    Args:
        now: What users do from now on is not forgotten.
        before: Older decisions, outcomes and touchpoints of logs of all users go too.
        feature_repo: Feast repository that is not in the folder, but whose online store belongs to it.
        origin: Raw files to look into, besides those that the folder's logs were read from.
    """
    root = Path(folder).resolve()
    if feature_repo and not (Path(feature_repo) / _SETTINGS).exists():
        raise LogError(f"{feature_repo}: no {_SETTINGS} in this folder, which would name the online store")
    with alone(root):
        Forgotten.add(root, users, now, before=before)
        found = _Found.below(root)
        repos = [*found.repositories, *([Path(feature_repo).resolve()] if feature_repo else [])]
        work = _Work(root, users, before)
        work.report.failed.extend(
            f"{path.relative_to(root)}: left by a process that was killed, and nobody knows what is in it: remove it"
            for path in found.unfinished
        )
        work.lakes(found.lakes, now)
        work.tables(found.tables)
        work.logs(found.logs)
        if users:
            for windows in found.windows:
                work.each(windows, lambda path: manifest.remove_users(path, users))
            for table in found.quarantined:
                work.each(table, lambda path: remove_quarantined(path, users))
            for repo in repos:  # last: who refreshes the store meanwhile finds nobody in the log any more
                work.each(repo, lambda path: forget_online(path, users), what="online store")
            with work.saying(root):
                work.report.models.extend(trained_on(found.artifacts, users))
            work.raw_files(found.logs, origin)
    return work.report


@dataclass
class _Found:
    tables: list[Path] = field(default_factory=list)
    logs: list[Path] = field(default_factory=list)  # folders with what ingestion said of a log
    lakes: list[Path] = field(default_factory=list)
    windows: list[Path] = field(default_factory=list)
    quarantined: list[Path] = field(default_factory=list)
    repositories: list[Path] = field(default_factory=list)
    artifacts: list[Path] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)  # by a process that was killed

    @classmethod
    def below(cls, root: Path) -> _Found:
        """Look at a folder and all below it, but not at the target of a link."""
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
            there = set(files)
            if manifest.FILE in there and manifest.STEPS in folders:
                found.windows.append(place)
                folders.remove(manifest.STEPS)
            if _SETTINGS in there:
                found.repositories.append(place)
            if {LOG_FILE, INGEST_FILE} <= there | set(folders):
                found.logs.append(place)
            for file in sorted(there):
                path = place / file
                if file.startswith((".", "_")) or path.is_symlink():
                    continue
                if path.suffix == ".parquet":
                    found.tables.append(path)
                elif _QUARANTINE.fullmatch(file):
                    found.quarantined.append(path)
        return found


class _Work:
    """Removes users from stores, and reports."""

    def __init__(self, root: Path, users: frozenset[str], before: datetime | None) -> None:
        self.report = Report()
        self._root = root
        self._users = users
        self._before = before

    def lakes(self, folders: list[Path], now: datetime) -> None:
        """Records of users, and hours that are too old."""
        for folder in folders:
            with self.saying(folder):
                lake, removed = Lake.open(folder), Counter[str]()
                removed.update(remove_users(lake, Forgotten().extended(self._users, now)))
                if self._before is not None:
                    removed.update(drop_hours(lake, self._before))
                store = self._store_of(folder)
                self.report.failed.extend(ASIDE.format(f"{store}/{name}") for name in unreadable(lake))
                for name in (f"{kind}s" for kind in get_args(Kind)):
                    self.report.removed[name if store == "." else f"{store}/{name}"] += removed[name]

    def tables(self, paths: list[Path]) -> None:
        """Rows of users and of their decisions."""
        rows = Rows(self._users, before=self._before)
        ids: set[str] = set()
        of_users, of_decisions = [], []
        for path in paths:
            with self.saying(path):
                columns = set(pq.read_schema(path).names)
                if USER in columns:
                    of_users.append(path)
                    ids |= rows.decisions_in(path)
                elif DECISION in columns:
                    of_decisions.append(path)
        rows = Rows(self._users, frozenset(ids), self._before)
        todo = [*of_decisions, *of_users]
        for done, path in enumerate(todo, 1):
            self.each(path, rows.remove)
            progress.report(done, len(todo), f"{done} of {len(todo)} tables")

    def logs(self, folders: list[Path]) -> None:
        for folder in folders:
            with self.saying(folder):
                _bring_up_to_date(folder)

    def raw_files(self, logs: list[Path], given: Origin | None) -> None:
        """Report the users that are still in the raw files of logs."""
        with self.saying(self._root):
            origins = [*origins_of(logs), *([given] if given else [])]
            self.report.raw.extend(dict.fromkeys(line for origin in origins for line in still_in(origin, self._users)))

    def each(self, path: Path, remove: Callable[[Path], int | None], what: str = "") -> None:
        """Remove something from a store, and count it."""
        with self.saying(path):
            removed = remove(path)
            if removed is not None:
                self.report.removed[self._store_of(path) + (f" ({what})" if what else "")] += removed

    @contextmanager
    def saying(self, path: Path) -> Iterator[None]:
        """Go on with the other stores if one can't be read or written."""
        try:
            yield
        except _CAN_GO_WRONG as error:
            if path.exists():
                words = (str(error).splitlines() or [type(error).__name__])[0]
                self.report.failed.append(f"{self._store_of(path)}: {words}")

    def _store_of(self, path: Path) -> str:
        """The place of a store in the folder; the parts of a table are one."""
        try:
            parts = path.relative_to(self._root).parts
        except ValueError:
            return str(path)
        store = []
        for part in parts:
            store.append(part)
            if part.endswith(".parquet"):
                break
        return "/".join(store) or "."


def _is_lake(folder: Path) -> bool:
    kinds = [f"{kind}s" for kind in get_args(Kind)]
    return any(next((folder / zone / kind).glob("date=*"), None) for zone in ("", "arrived") for kind in kinds)


def _is_unfinished(path: Path) -> bool:
    """Whether a file or folder was to replace another, and nobody is at work on it any more."""
    try:
        age = time.time() - path.lstat().st_mtime if _UNFINISHED.fullmatch(path.name) else 0.0
    except FileNotFoundError:  # it is finished now
        return False
    return age > _UNFINISHED_SECONDS


def _bring_up_to_date(folder: Path) -> None:
    """Update rows, users and fingerprint in the report of a log."""
    report = json.loads((folder / INGEST_FILE).read_text(encoding="utf-8"))
    files = parquet_files(folder / LOG_FILE)
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    if report.get("rows") == rows:
        return
    users: set[str] = set()
    for file in files:
        users.update(pq.read_table(file, columns=[USER])[USER].unique().to_pylist())
    batches = (batch for file in files for batch in pq.ParquetFile(file).iter_batches())
    report |= {"rows": rows, "users": len(users), "fingerprint": fingerprint(batches)}
    (folder / INGEST_FILE).write_text(json.dumps(report, indent=2), encoding="utf-8")
