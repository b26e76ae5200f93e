"""Writes files and folders atomically, even if the process is killed halfway.

    with replacing(Path("metrics.json")) as unfinished:
        unfinished.write_text(text)

Until the end of the block, the new content has a hidden name in the same folder.
"""

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
_FULL = (errno.ENOSPC, errno.EDQUOT)  # EDQUOT: a shared volume may have a quota


@contextlib.contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yields a temporary path for a file or folder, which replaces `path` at the end of the block.

    After an error in the block, the temporary path is removed and `path` is unchanged. A file is replaced in one step.
    A folder is missing for a moment, between the renaming of the old folder and of the new one. A file can't replace a
    folder, nor a folder a file, except for a Parquet table, which may be one file or a folder of parts.

    A `durable` file survives a power failure right after the block; content and name are synced to disk.

    Raises:
        OSError: `path` can't be written, or a file would replace a folder or the reverse. If the disk is full, the
            error has the number ENOSPC and names `path`, even if a library raised a different error.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    # A random name, not the process id: processes of two pods that share a volume can have the same id.
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
    """Turn any error caused by a full disk into an OSError (ENOSPC) that names `path`; if nested, the inner path."""
    try:
        yield
    except Exception as error:
        named = isinstance(error, OSError) and error.__cause__ is not None
        if is_disk_full(error) and not named:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def is_disk_full(error: BaseException) -> bool:
    """Whether an error reports a full disk. DuckDB and Arrow raise their own errors, with the system's text."""
    return getattr(error, "errno", None) in _FULL or any(os.strerror(number) in str(error) for number in _FULL)


def remove(path: Path) -> None:
    """Remove a file, a folder or a link, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush the content of a file, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_abandoned(path: Path) -> None:
    """Remove temporary files that a killed process left over a day ago. If `path` is missing, keep the `.old` file."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}" + r"(\.old)?" * os.path.lexists(path))
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if not name.fullmatch(entry.name):
                continue
            with contextlib.suppress(OSError):  # another process has removed the file, or this process lacks permission
                # ctime is the time of creation or renaming, while a copy has the mtime of its original.
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
            if not os.path.lexists(path):  # if `path` exists, another process put it there: try again
                if os.path.lexists(old):
                    os.rename(old, path)
                raise
        finally:
            with contextlib.suppress(FileNotFoundError):
                remove(old)


def link(source: Path, target: Path) -> None:
    """Hard-link a Parquet file, or the parts in a folder; copy if the file system has no links.

    Files are replaced, never changed in place, so a link keeps the old content.
    """
    shutil.copytree(source, target, copy_function=_link) if source.is_dir() else _link(source, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
