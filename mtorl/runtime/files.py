"""Writes files and folders so that other processes never see a part of the new content."""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

_ABANDONED_SECONDS = 24 * 3600.0
# EDQUOT: the quota of a shared volume is used up.
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path for a file or folder, which replaces `path` at the end of the block.

    If the block raises an error, `path` stays unchanged. A file is replaced in one step, but a folder is missing for a
    moment.

    Args:
        durable: Whether the new file must survive a power failure after the block.

    Raises:
        OSError: `path` can't be written, or a file would replace a folder, or a folder a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    # Use a random name, because process ids are not unique between pods that share a volume.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with naming_full_disk(path):
            yield temporary
            if durable:
                sync(temporary)
            _swap(temporary, path)
            if durable:
                sync(path.parent)
    finally:
        remove(temporary)


@contextlib.contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turn every error of a full disk in the block into an OSError (ENOSPC) that names `path`.

    If blocks are nested, the path of the inner block is kept.
    """
    try:
        yield
    except Exception as error:
        named = isinstance(error, OSError) and error.__cause__ is not None
        if is_disk_full(error) and not named:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error was caused by a full disk.

    DuckDB and Arrow have their own error types, so the text of the error is searched as well.
    """
    return getattr(error, "errno", None) in _FULL or any(os.strerror(number) in str(error) for number in _FULL)


def remove(path: Path) -> None:
    """Delete a file, a folder or a link, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 digest of a file's content as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's file names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_abandoned(path: Path) -> None:
    """Delete temporary files of `path` that killed processes left more than a day ago."""
    # If `path` is missing, keep a `.old` file, because it may be the only copy.
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}" + r"(\.old)?" * os.path.lexists(path))
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if not name.fullmatch(entry.name):
                continue
            # Another process may have deleted the file already.
            with contextlib.suppress(OSError):
                # Use the ctime, because a copied file has the much older mtime of its original.
                if time.time() - entry.stat(follow_symlinks=False).st_ctime > _ABANDONED_SECONDS:
                    remove(Path(entry.path))


def _swap(new: Path, path: Path) -> None:
    if path.exists() and not path.is_symlink() and path.suffix != ".parquet":
        if path.is_dir() and new.is_file():
            raise IsADirectoryError(errno.EISDIR, "a file does not replace a folder", str(path))
        if path.is_file() and new.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a folder does not replace a file", str(path))
    if not new.is_dir() and not path.is_dir():
        os.replace(new, path)
        return
    while True:
        old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, old)
        try:
            os.rename(new, path)
            return
        except OSError:
            # If `path` exists, another process has just created it, so try again.
            if not os.path.lexists(path):
                if os.path.lexists(old):
                    os.rename(old, path)
                raise
        finally:
            with contextlib.suppress(FileNotFoundError):
                remove(old)


def link(source: Path, target: Path) -> None:
    """Copy a Parquet file or a folder as hard links, or copy the content if hard links are not supported.

    Files are never changed in place, so later changes of the source don't affect the copy.
    """
    shutil.copytree(source, target, copy_function=_link) if source.is_dir() else _link(source, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError:  # different file systems, or no hard links
        shutil.copyfile(source, target)
