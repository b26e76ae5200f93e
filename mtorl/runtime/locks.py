"""Locks a file between processes. The kernel releases the lock when its holder exits or is killed.

with locked(folder / ".lock", LogError(f"{folder}: another run is collecting here; wait until it has finished")):
...
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

_TRY_SECONDS = 0.05


@contextlib.contextmanager
def locked(path: Path, busy: Exception, *, wait_seconds: float = 0.0, shared: bool = False) -> Iterator[int]:
    """Holds a lock until the end of the block, and yields the descriptor of the lock file.

    The file is created if it is missing, and never removed. If another process still holds the lock after
    `wait_seconds`, this raises `busy`. Several processes may hold a `shared` lock at once.
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
    """Locks a file until the returned descriptor is closed; BlockingIOError if another process keeps the lock."""
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
