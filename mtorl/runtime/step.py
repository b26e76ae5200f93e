"""If a pipeline step has unusable input, stops the step with a message that says what to fix, without a traceback.

    with step():
        ...                             # the body of a component

A cluster shows only the end of a step's log, and Kubeflow Pipelines reports only that a run has failed. So the reason
is written to a note in a folder that outlives the pods, and the run's last step reports it:

    $MTORL_RUNS/notes/$MTORL_RUN_ID/ingest.txt    why the step `ingest` failed

Unless both variables are set, no note is written. A step that succeeds when it is retried removes its note.
"""

import contextlib
import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtorl.runtime import progress
from mtorl.runtime.errors import InputError
from mtorl.runtime.files import is_disk_full, remove

RUNS, RUN_ID = "MTORL_RUNS", "MTORL_RUN_ID"
"""Environment variables: the folder of all runs, and the id of the current run."""
_MOST = 4_000  # characters of a note
_KEPT = 30  # runs whose notes are kept
_SILENT = "it exited without a message: probably killed, for instance because memory ran out"
_EMPTY = "its note is empty, perhaps because the disk is full: see the step's log"


def run_id() -> str:
    """Id of the current run; "" outside of a pipeline."""
    return os.environ.get(RUN_ID, "")


def note(why: str, step: str = "") -> None:
    """Write why a step failed, by default the current step; "" removes its note. A full disk raises no error here."""
    if (folder := _folder()) is None:
        return
    with contextlib.suppress(OSError):
        path = folder / f"{step or _step()}.txt"
        if not why:
            path.unlink(missing_ok=True)
            return
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(why[-_MOST:], encoding="utf-8", errors="backslashreplace")


def note_silent_end(step: str) -> None:
    """Write a note for a failed step that has written none."""
    if step not in notes():
        note(_SILENT, step)


def notes() -> dict[str, str]:
    """The notes of the current run, by step; removes the notes of old runs."""
    folder = _folder()
    if folder is None or not folder.is_dir():
        return {}
    with contextlib.suppress(OSError):
        others = sorted((run for run in folder.parent.iterdir() if run != folder), key=lambda run: run.stat().st_mtime)
        for old in others[: -_KEPT or None]:
            remove(old)
    found = {}
    for path in sorted(folder.glob("*.txt")):
        with contextlib.suppress(OSError):
            found[path.stem] = path.read_text(encoding="utf-8", errors="replace") or _EMPTY
    return found


def _folder() -> Path | None:
    runs, run = os.environ.get(RUNS), run_id()
    return Path(runs) / "notes" / Path(run).name if runs and run else None


def _step() -> str:
    """The name of the step that KFP's launcher runs in this process."""
    with contextlib.suppress(ValueError, IndexError):
        return sys.argv[sys.argv.index("--function_to_execute") + 1].replace("_", "-")
    return "step"


_PRIVATE = 0o027  # no access for other users; servers and jobs have the user or the group of the steps


@contextmanager
def step() -> Iterator[None]:
    """Run the body of a step; an error that users can fix becomes SystemExit with its message and notes.

    Users can fix an InputError, and a volume that is full or not writable.
    """
    mask = os.umask(_PRIVATE)
    if mask & 0o002:  # the user's own choice, as on a laptop; a cluster's launcher sets no mask
        os.umask(mask)
    try:
        yield
        note("")
    except (OSError, InputError) as error:
        if isinstance(error, shutil.Error) and is_disk_full(error):  # it lists several files: name the first
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(error.args[0][0][1]))
        if isinstance(error, OSError) and not (error.errno in (errno.EACCES, errno.EPERM) or is_disk_full(error)):
            note(f"{type(error).__name__}: {error}")
            raise
        if isinstance(error, PermissionError):
            error.add_note(
                f"User {os.getuid()} and group {os.getgid()} may not do that: a volume must belong to the group"
            )
        progress.input_error(error)
        words = "\n".join([str(error), *getattr(error, "__notes__", ())])
        note(words)
        raise SystemExit(f"mtorl: {words}") from None
    except BaseException as error:
        note(f"{type(error).__name__}: {error}")
        raise
    finally:
        os.umask(mask)
