"""Digests the content of a raw log, for a cache that knows only its path.

before = content_of(raw)
...                                 # read the log
check_unchanged(raw, before)
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from features.engine import is_unfinished
from features.ingest.built_folder import Built
from features.ingest.log_folder import RawLog
from features.ingest.object_store import is_remote, marks
from mtorl.log.dataset import DatasetSpec
from mtorl.log.touchpoints import LogError
from mtorl.runtime import progress
from mtorl.runtime.files import sha256_of


def content_of(raw: RawLog) -> str:
    """SHA-256 (hex) over a log's files, its description, its second file and its feature views.

    A simulated log is known by its settings, files in an object store by their sizes and times, a folder of `mtorl data
    build` by the digests that it holds.
    """
    spec = DatasetSpec.load(raw.dataset)
    digest = hashlib.sha256(json.dumps(spec.to_dict(), sort_keys=True).encode())
    if built := Built.at(raw.path):
        for file in built.standing_for_it:
            digest.update(f"\n{file.relative_to(built.folder)}:{sha256_of(file)}".encode())
        return digest.hexdigest()
    second = [spec.conversions.source] if spec.conversions else []
    paths = [path for path in (raw.path, *second, *(view.source for view in spec.features)) if path]
    for address in filter(is_remote, paths):
        for name, mark in marks(address):
            digest.update(f"\n{name}:{mark}".encode())
    files = [(name, file) for path in paths if not is_remote(path) for name, file in _files(Path(path))]
    for done, (name, file) in enumerate(files):
        progress.report(done, len(files), file.name)
        digest.update(f"\n{name}:{sha256_of(file)}".encode())
    return digest.hexdigest()


def check_unchanged(raw: RawLog, content: str) -> None:
    """Raise a `LogError` if a log has changed: what was read may be half of the old state and half of the new one."""
    if content_of(raw) != content:
        raise LogError(
            f"{raw.path or raw.dataset}: changed while it was read; write a log under another name, "
            "rename it when it is complete, and run again"
        )


def _files(path: Path) -> list[tuple[str, Path]]:
    """A file, or all files of a folder in the order of their names but unfinished ones."""
    if not path.exists():
        raise LogError(f"{path}: no such file or folder")
    if path.is_file():
        return [("", path)]
    names = sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file())
    return [(str(name), path / name) for name in names if not is_unfinished(name)]
