"""A run's folder: made under its time of day, emptied when the input was refused, pointed to when the run is done."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import time
from pathlib import Path

QUARANTINE = Path("data", "quarantine.csv")
"""Where a run keeps the faulty rows of its log."""


def new_run(root: Path) -> Path:
    """Make a folder named after the present second; a second run of that second waits for the next."""
    root.mkdir(parents=True, exist_ok=True)
    while True:
        run = root.resolve() / dt.datetime.now().strftime("%Y%m%d-%H%M%S")
        try:
            run.mkdir()
            return run
        except FileExistsError:
            time.sleep(0.2)


def keep_only_quarantine(run: Path) -> Path | None:
    """Remove a run whose input can't be used, all but the file that shows the faulty rows.

    Returns:
        That file; None if there is none, and so no folder of the run any more.
    """
    made = next((path for path in run.glob("pipeline/*/ingest/quarantine") if path.stat().st_size), None)
    kept = run / QUARANTINE
    if made is not None:
        kept.parent.mkdir(exist_ok=True)
        made.replace(kept)
    for entry in run.iterdir():
        if made is None or entry != kept.parent:
            shutil.rmtree(entry)
    if made is not None:
        return kept
    run.rmdir()
    return None


def point_latest(root: Path, run: Path) -> None:
    """Let ``<root>/latest`` point to a run; whoever follows it meanwhile finds this run or the one before."""
    temporary = root / f".latest.{os.getpid()}"
    temporary.symlink_to(run.name)
    temporary.replace(root / "latest")
