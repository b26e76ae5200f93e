"""The embedded ledger's file: made whole, opened, and noticed when it is another one."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from pathlib import Path

from serving.ledger import schema
from serving.ledger.contract import LedgerUnavailable


class LedgerFile:
    """One connection to a file. Whoever uses it lets one thread in at a time.

    Args:
        path: The file.
        patience: Seconds to wait for other processes.
    """

    def __init__(self, path: Path, patience: float) -> None:
        self._path = path
        self._patience = patience
        self._connection: sqlite3.Connection | None = None
        self._inode = 0

    def create_if_new(self) -> None:
        """Put a new file in place, complete: processes that start together must not meet in a half-made one."""
        if self._connection is not None or self._path.exists():
            return
        draft = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}")
        try:
            with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as db:
                db.execute("PRAGMA journal_mode = WAL")  # stays with the file
                db.executescript(schema.CREATE)
            with contextlib.suppress(FileExistsError):  # another process was first; its file is as good
                os.link(draft, self._path)
        except (sqlite3.Error, OSError) as error:
            raise LedgerUnavailable(f"{self._path}: {error}") from error
        finally:
            draft.unlink(missing_ok=True)

    def open(self) -> sqlite3.Connection:
        """The connection, checked."""
        if self._connection is not None:
            # SQLite would go on writing to a file that was deleted or replaced, for nobody to see.
            if self._path.stat().st_ino != self._inode:
                raise LedgerUnavailable("replaced by another file while in use")
            return self._connection
        db = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=self._patience,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            db.execute("PRAGMA synchronous = FULL")
            version = schema.bring_up_to_date(db)
            if version != schema.VERSION:
                raise LedgerUnavailable(f"not a ledger of this version (found {version}, need {schema.VERSION})")
            db.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            db.close()
            raise
        self._connection, self._inode = db, self._path.stat().st_ino
        return db

    def close(self) -> None:
        """Close it; `open` opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
