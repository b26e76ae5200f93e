"""Reasons why steps of a pipeline's run failed, in a folder that outlives their pods.

    $MTORL_RUNS/notes/$MTORL_RUN_ID/ingest.txt    why the step `ingest` failed

The run's last step reports them: Kubeflow Pipelines itself says only that a run has failed. Without both variables
nothing is noted. A step that succeeds when it is retried removes its note.
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
    """Id of the present run; "" outside of a pipeline."""
    return os.environ.get(RUN_ID, "")


def note(why: str) -> None:
    """Keep why the present step failed; "": it did not.

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
    """Keep that a step has failed without a note of its own."""
    folder = _folder()
    if folder is None or (folder / f"{step}.txt").exists():
        return
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{step}.txt").write_text(_SILENT)


def notes() -> dict[str, str]:
    """The notes of the present run, by step; removes those of old runs."""
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
    """The step of this process, as KFP's launcher names it."""
    with contextlib.suppress(ValueError, IndexError):
        return sys.argv[sys.argv.index("--function_to_execute") + 1].replace("_", "-")
    return "step"
