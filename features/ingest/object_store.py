"""Copies a log from an object store to this machine, and lists its files to detect changes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from features import messages
from features.engine import is_unfinished
from mtorl.log.touchpoints import LogError
from mtorl.runtime import progress
from mtorl.runtime.object_stores import open_store, without_credentials

_SCHEMES = ("s3://", "gs://", "abfss://")


def marks(address: str) -> list[tuple[str, str]]:
    """Return the name, size and modification time of each file at an address, to detect changes."""
    _, root, files = _listing(address)
    return [(_name(file, root), f"{file.size}:{file.mtime_ns}") for file in files]


def copy(address: str, folder: Path) -> Path:
    """Copy the file or folder at an address into the new folder `folder`. Returns the path of the copy."""
    store, root, files = _listing(address)
    total, done = sum(file.size for file in files), 0
    for file in files:
        local = folder / _name(file, root)
        local.parent.mkdir(parents=True, exist_ok=True)
        with _readable(address), store.open_input_stream(file.path) as source, open(local, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        done += file.size
        progress.report(done, total, file.base_name)
    single = len(files) == 1 and files[0].path == root
    return folder / files[0].base_name if single else folder


def _listing(address: str) -> tuple[Any, str, list[Any]]:
    """Return the object store of an address, the path within the store, and all finished files at this path."""
    from pyarrow.fs import FileSelector, FileType

    if not address.startswith(_SCHEMES):
        raise LogError(messages.UNKNOWN_ADDRESS(address=address, schemes=_SCHEMES))
    with _readable(address):
        store, root = open_store(address)
        found = store.get_file_info(root)
        files = [found] if found.type == FileType.File else []
        if found.type == FileType.Directory:
            below = store.get_file_info(FileSelector(root, recursive=True))
            whole = (f for f in below if f.type == FileType.File and not is_unfinished(PurePosixPath(_name(f, root))))
            files = sorted(whole, key=lambda file: str(file.path))
    if not files:
        raise LogError(messages.NO_FILE(file=address))
    return store, root, files


@contextmanager
def _readable(address: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            # An error with a file name comes from this machine, not from the object store.
            raise
        reason, shown = str(error).splitlines()[0], without_credentials(address)
        raise LogError(messages.UNREADABLE_ADDRESS(address=shown, reason=reason)) from None


def _name(file: Any, root: str) -> str:
    return str(file.base_name if file.path == root else PurePosixPath(file.path).relative_to(root))
