"""An earlier revision beside this one: a checkout of it, measured in turns on one machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from _environment import ROOT


def checkouts(before: Path) -> dict[str, Path]:
    """The earlier revision's folder and this one's."""
    return {"before": before.resolve(), "now": ROOT}


def run_in(checkout: Path, arguments: Sequence[str]) -> str:
    """Run Python with a checkout's code, whatever is installed; returns what it has printed.

    Raises:
        RuntimeError: It failed; the message holds the end of its errors.
    """
    searched = {"PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=checkout, env={**os.environ, **searched}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{checkout}: {done.stderr[-2000:]}")
    return done.stdout


def revision(checkout: Path) -> str:
    """Of a checkout, short."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
