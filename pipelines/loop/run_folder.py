"""A run's folder: named after its start, emptied when the input was refused, linked as latest once it can be served."""

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
    """Remove a run whose input can't be used, all but the file of its faulty rows; returns that file."""
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


def set_aside(run: Path) -> None:
    """Move the state of an interrupted rehearsal to a folder such as ``interrupted-20261130-161500``.

    It is kept: users may have been served from it since, with a log and a ledger.
    """
    kept = run / f"interrupted-{dt.datetime.now():%Y%m%d-%H%M%S}"
    for path in (run / "serving", run / "serving.yaml", *(run / "features").glob("online.db*")):
        if path.exists():
            kept.mkdir(exist_ok=True)
            path.replace(kept / path.name)


def point_latest(root: Path, run: Path) -> None:
    """Let ``<root>/latest`` point to a run, atomically."""
    temporary = root / f".latest.{os.getpid()}"
    temporary.symlink_to(run.name)
    temporary.replace(root / "latest")
