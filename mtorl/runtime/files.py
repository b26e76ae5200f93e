"""Files and folders that appear whole or not at all, whichever process is killed while it writes them.

Write to the path that the block is given:

    with replacing(Path("metrics.json")) as unfinished:
        unfinished.write_text(text)
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """A path to write a file or a folder to; it replaces `path` at the end of the block, or is removed after an error.

    A file is replaced in one step. A folder is missing for a moment: the old one is renamed, then the new one.

    Args:
        path: The file or folder to create or replace.
        durable: Whether a file must survive a power failure right after the end of the block. This waits for the disk
            twice: for the content, then for the name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A random name, not the process id: processes of two pods that share a volume can have the same id.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        if durable:
            sync(temporary)
        _swap(temporary, path)
        if durable:
            sync(path.parent)
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Make the content of a file durable, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(new: Path, path: Path) -> None:
    if new.is_dir() or path.is_dir():
        old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
        if path.exists():
            os.rename(path, old)
        try:
            os.rename(new, path)
        except OSError:
            if old.exists():
                os.rename(old, path)
            raise
        remove(old)
    else:
        os.replace(new, path)
