"""Command line options and output that all benchmark scripts share. Each script imports this module first."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

# Search the script's folder last, because its `features.py` would hide the package `features`.
_FOLDER = ROOT / "benchmarks"
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry) != _FOLDER), str(_FOLDER)]

from mtorl.runtime.hardware import environment  # noqa: E402  # needs the path above

__all__ = ["ROOT", "environment", "finish", "kept_markets", "parser"]


def parser(manual: str | None, quick: str = "") -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=manual, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", default="", metavar="FILE", help="also write the figures to this file")
    if quick:
        made.add_argument("--quick", action="store_true", help=quick)
    return made


def kept_markets(options: argparse.ArgumentParser, path: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the markets in the file of an earlier run. Exits with an error if that run had other settings."""
    kept = json.loads(Path(path).read_text()) if Path(path).is_file() else {"settings": settings, "markets": {}}
    if kept["settings"] != settings:
        options.error(f"{path} was measured with other settings: {kept['settings']}")
    found: dict[str, Any] = kept["markets"]
    return found


def finish(figures: dict[str, Any], path: str) -> None:
    print("  ".join(f"{name} {value}" for name, value in figures["environment"].items()))
    if path:
        Path(path).write_text(json.dumps(figures, indent=2) + "\n")
