"""Common options and output of the scripts, including hardware and versions. Each script imports this module first."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

# A script is run by its path, so Python searches its folder first, where `features.py` would hide the package
# `features`. The folder therefore moves to the end of the path, where subprocesses of a script still find this module.
_FOLDER = ROOT / "benchmarks"
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry) != _FOLDER), str(_FOLDER)]

from mtorl.runtime.hardware import environment  # noqa: E402  # needs the path above

__all__ = ["ROOT", "environment", "finish", "kept_markets", "parser"]


def parser(manual: str | None, quick: str = "") -> argparse.ArgumentParser:
    """A parser with the options of every script: --json and, if `quick` describes the smaller run, --quick."""
    made = argparse.ArgumentParser(description=manual, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", default="", metavar="FILE", help="also write the figures to this file")
    if quick:
        made.add_argument("--quick", action="store_true", help=quick)
    return made


def kept_markets(options: argparse.ArgumentParser, path: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The markets in a file of figures, if it exists; exits if they were measured with other settings."""
    kept = json.loads(Path(path).read_text()) if Path(path).is_file() else {"settings": settings, "markets": {}}
    if kept["settings"] != settings:
        options.error(f"{path} was measured with other settings: {kept['settings']}")
    found: dict[str, Any] = kept["markets"]
    return found


def finish(figures: dict[str, Any], path: str) -> None:
    """Print the environment; if `path` is not "", write the figures as JSON."""
    print("  ".join(f"{name} {value}" for name, value in figures["environment"].items()))
    if path:
        Path(path).write_text(json.dumps(figures, indent=2) + "\n")
