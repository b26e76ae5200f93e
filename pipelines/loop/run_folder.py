"""A run's folder: made under its time of day, emptied when the input was refused, pointed to when the run is done."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import time
from pathlib import Path


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


def keep_only_quarantine(run: Path) -> None:
    """Remove a run whose input can't be used, all but the file that shows the faulty rows."""
    kept = run / "data" / "quarantine.csv"
    for entry in run.iterdir():
        if entry != kept.parent:
            shutil.rmtree(entry)
    if not kept.exists():
        shutil.rmtree(run)


def point_latest(root: Path, run: Path) -> None:
    """Let ``<root>/latest`` point to a run; whoever follows it meanwhile finds this run or the one before."""
    temporary = root / f".latest.{os.getpid()}"
    temporary.symlink_to(run.name)
    temporary.replace(root / "latest")
