"""Runs a pipeline step, and reports invalid input with a message instead of a traceback.

The reason of a failure is also written to a file, called the note of the step, because Kubeflow Pipelines reports only
that a run has failed:

    $MTORL_RUNS/notes/$MTORL_RUN_ID/ingest.txt    why the step `ingest` failed
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
"""Names of the environment variables with the folder of all runs, and with the id of the current run."""
# Maximum length of a note, in characters. Only the end of a longer text is kept, because it names the error.
_MOST = 4_000
# Number of runs whose notes are kept.
_KEPT = 30
_SILENT = "it exited without a message: probably killed, for instance because memory ran out"
_EMPTY = "its note is empty, perhaps because the disk is full: see the step's log"


def run_id() -> str:
    """Return the id of the current pipeline run, or "" outside of a pipeline."""
    return os.environ.get(RUN_ID, "")


def note(why: str, step: str = "") -> None:
    """Write to a step's note why the step failed, or delete the note if `why` is ""."""
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
    """Write a note for a step that failed without a note, for example because it was killed."""
    if step not in notes():
        note(_SILENT, step)


def notes() -> dict[str, str]:
    """Return the notes of the current run, by step, and delete the notes of old runs."""
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
    with contextlib.suppress(ValueError, IndexError):
        return sys.argv[sys.argv.index("--function_to_execute") + 1].replace("_", "-")
    return "step"


# Files of a step are readable for its group, with which servers and jobs run.
_PRIVATE = 0o027


@contextmanager
def step() -> Iterator[None]:
    """Run the body of a pipeline step, and write every error to the step's note.

    An error that a user can fix becomes a SystemExit with the text of the error.
    """
    mask = os.umask(_PRIVATE)
    # Keep a mask that already denies write access to other users.
    if mask & 0o002:
        os.umask(mask)
    try:
        yield
        note("")
    except (OSError, InputError) as error:
        # shutil.Error has one error per file: report the first.
        if isinstance(error, shutil.Error) and is_disk_full(error):
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
