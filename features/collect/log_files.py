"""Files of a decision log, and which of them have been read (`read.json` in the store).

A file is known by its name, size and time. If `read.json` is lost, all files are read again, which changes nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from features.collect.database import Database
from mtorl.log.records import Kind
from mtorl.runtime.files import replacing

_READ = "read.json"

COLLECTED: tuple[Kind, ...] = ("decision", "outcome")
"""Kinds of records that are learnt from."""


def files_of(log: Path, kind: Kind) -> list[Path]:
    """All files with records of a kind: those of exports, at any depth, and those of a sink's hourly folders.

    A hidden folder holds unfinished work, perhaps of a process that was killed.
    """
    exported = log.glob(f"**/{kind}s.parquet")
    shipped = log.glob(f"**/{kind}s/date=*/hour=*/*.parquet")
    return sorted(file for file in {*exported, *shipped} if not is_hidden(file, log))


def is_hidden(file: Path, folder: Path) -> bool:
    """Whether a file lies in a hidden folder below another."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def mark_of(file: Path) -> list[int] | None:
    """Size and time of a file; None if it is gone: an export removes what it supersedes."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return [found.st_size, found.st_mtime_ns]


class NewFiles:
    """Files of a decision log that were not read yet.

    Args:
        whole: Read each file to its end first, to find one that is damaged inside. Otherwise its footer is enough.
        again: Take all files, also those that were read.

    Attributes:
        by_kind: The files that can be read.
        unreadable: Files that are cut off or damaged; the next run tries them again.
    """

    def __init__(self, db: Database, log: Path, store: Path, whole: bool, again: bool = False) -> None:
        self._path = store / _READ
        self._read = {} if again else _read_before(self._path)
        self.by_kind: dict[Kind, list[Path]] = {kind: [] for kind in COLLECTED}
        self.unreadable: list[str] = []
        for kind, files in self.by_kind.items():
            for file in files_of(log, kind):
                name, mark = str(file.relative_to(log)), mark_of(file)
                if mark is None or self._read.get(name) == mark:
                    continue
                if db.can_read(file, whole):
                    files.append(file)
                    self._read[name] = mark
                else:
                    self.unreadable.append(str(file))

    def remember(self) -> None:
        """Note that the files have been read."""
        with replacing(self._path) as unfinished:
            unfinished.write_text(json.dumps(self._read, indent=0))


def _read_before(path: Path) -> dict[str, Any]:
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return before if isinstance(before, dict) else {}
