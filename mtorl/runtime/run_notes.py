"""Why steps of a pipeline's run could not go on, in a folder that outlives their pods.

    $MTORL_RUNS/notes/$MTORL_RUN_ID/ingest.txt    what the step `ingest` said at its end

Whoever tells people how a run ended reads it there: Kubeflow Pipelines itself says only that a run has failed. Without
both variables nothing is noted. A step that succeeds when it is tried again takes its note back.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from mtorl.runtime.files import remove

RUNS, RUN_ID = "MTORL_RUNS", "MTORL_RUN_ID"
"""Variables of the environment: the folder of all runs, and the id of the present one."""
_MOST = 4_000  # characters of a note
_KEPT = 30  # runs whose notes are kept
_SILENT = "it said nothing at its end: killed, as when there is no memory left"
_EMPTY = "its note is empty, as on a full disk: see the step's log"


def run_id() -> str:
    """The present run's; "" outside of a pipeline."""
    return os.environ.get(RUN_ID, "")


def note(why: str) -> None:
    """Keep why the present step could not go on; "": it could.

    It never fails: a full disk must not hide the reason for which there is something to note.
    """
    folder = _folder()
    if folder is None:
        return
    with contextlib.suppress(OSError):
        path = folder / f"{_step()}.txt"
        if not why:
            path.unlink(missing_ok=True)
            return
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(why[-_MOST:], encoding="utf-8", errors="backslashreplace")


def note_silent_end(step: str) -> None:
    """Keep that a step has failed which could not say why itself; what it has noted stays."""
    folder = _folder()
    if folder is None or (folder / f"{step}.txt").exists():
        return
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{step}.txt").write_text(_SILENT)


def notes() -> dict[str, str]:
    """What steps of the present run have noted, by step; removes the notes of old runs."""
    folder = _folder()
    if folder is None or not folder.is_dir():
        return {}
    with contextlib.suppress(OSError):
        others = sorted((other for other in folder.parent.iterdir() if other != folder), key=_age)
        for old in others[: -_KEPT or None]:
            remove(old)
    found = {}
    for path in sorted(folder.glob("*.txt")):
        with contextlib.suppress(OSError):
            found[path.stem] = path.read_text(encoding="utf-8", errors="replace") or _EMPTY
    return found


def _age(folder: Path) -> float:
    return folder.stat().st_mtime


def _folder() -> Path | None:
    runs, run = os.environ.get(RUNS), run_id()
    return Path(runs) / "notes" / Path(run).name if runs and run else None


def _step() -> str:
    """The step that this process executes, as KFP's launcher names it to the process."""
    with contextlib.suppress(ValueError, IndexError):
        return sys.argv[sys.argv.index("--function_to_execute") + 1].replace("_", "-")
    return "step"
