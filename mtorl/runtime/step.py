"""The end of a pipeline's step on unusable input: a message that says what to mend, without a traceback.

    with step(LogError, SpecError):
        ...                             # the body of a component

A cluster shows only the end of a step's log. The reason is also noted for the run's last step (`run_notes`).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from mtorl.runtime import progress, run_notes
from mtorl.runtime.files import is_disk_full

_PRIVATE = 0o027  # nothing for others; servers and jobs have the user or the group of the steps


@contextmanager
def step(*unusable: type[Exception]) -> Iterator[None]:
    """Run the body of a step.

    Args:
        unusable: Errors whose message tells users what is wrong with their input. A volume that is full or can't be
            written to is treated alike; every other error shows its traceback.

    Raises:
        SystemExit: with that message and the error's notes; the process ends with exit code 1.
    """
    mask = os.umask(_PRIVATE)
    if mask & 0o002:  # somebody's own choice, as on a laptop; a launcher on a cluster leaves no mask at all
        os.umask(mask)
    try:
        yield
        run_notes.note("")
    except (OSError, *unusable) as error:  # type: ignore[misc]
        if isinstance(error, shutil.Error) and is_disk_full(error):  # of all files of a folder: the first one says it
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(error.args[0][0][1]))
        if not isinstance(error, unusable) and not (error.errno in (errno.EACCES, errno.EPERM) or is_disk_full(error)):
            run_notes.note(f"{type(error).__name__}: {error}")
            raise
        if isinstance(error, PermissionError):
            error.add_note(
                f"User {os.getuid()} and group {os.getgid()} may not do that: a volume must belong to the group"
            )
        progress.input_error(str(error))
        words = "\n".join([str(error), *getattr(error, "__notes__", ())])
        run_notes.note(words)
        raise SystemExit(f"mtorl: {words}") from None
    except BaseException as error:
        run_notes.note(f"{type(error).__name__}: {error}")
        raise
    finally:
        os.umask(mask)
