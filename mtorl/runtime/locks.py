"""Locks files, so that only one process at a time uses a folder or a database."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

_TRY_SECONDS = 0.05


@contextlib.contextmanager
def locked(path: Path, busy: Exception, *, wait_seconds: float = 0.0, shared: bool = False) -> Iterator[int]:
    """Hold a file lock until the end of the block, and yield its file descriptor.

    Args:
        busy: Error to raise if another process still holds the lock after `wait_seconds`.
        shared: Whether other processes may hold a shared lock at the same time.
    """
    try:
        lock = acquire(path, wait_seconds=wait_seconds, shared=shared)
    except BlockingIOError:
        raise busy from None
    try:
        yield lock
    finally:
        os.close(lock)


def acquire(path: Path, *, wait_seconds: float = 0.0, shared: bool = False) -> int:
    """Lock a file until the returned file descriptor is closed.

    Raises:
        BlockingIOError: Another process still holds the lock after `wait_seconds`.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    until = time.monotonic() + wait_seconds
    try:
        while True:
            try:
                fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                return lock
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise
                time.sleep(_TRY_SECONDS)
    except BaseException:
        os.close(lock)
        raise
