"""Files and folders that appear whole or not at all, whoever is killed while they are written.

with replacing(Path("metrics.json")) as unfinished:
unfinished.write_text(text)
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """A path to write a file or a folder to; it takes the place of `path` if all goes well, else it is removed.

    A file is replaced at once. Of a folder, there is none for a moment: the old one is renamed, then the new one.

    Args:
        path: What appears, or is replaced.
        durable: Whether a file has to survive a machine that loses its power just after the end of the block. This
            waits for the disk twice: once for the content, once for the name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # By chance, not by process: in two pods that share the volume, processes have the same numbers.
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
