"""Names the hardware and versions under every table. Each script of this folder imports it first."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

# A script is run by its path, so modules are looked for in its folder first, where `features.py` hides the package of
# that name. From here on the folder comes last; the processes that a script starts find this module there.
_FOLDER = ROOT / "benchmarks"
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry) != _FOLDER), str(_FOLDER)]

from mtorl.runtime.hardware import environment  # noqa: E402  # not before its folder can be found

__all__ = ["ROOT", "environment", "finish", "kept_markets", "parser"]


def parser(manual: str | None, quick: str = "") -> argparse.ArgumentParser:
    """The options of every script: --json, and --quick with what it makes smaller."""
    made = argparse.ArgumentParser(description=manual, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", default="", metavar="FILE", help="also write the figures there")
    if quick:
        made.add_argument("--quick", action="store_true", help=quick)
    return made


def kept_markets(options: argparse.ArgumentParser, path: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The markets that a file of figures has, if there is one; exits if they were measured with other settings."""
    kept = json.loads(Path(path).read_text()) if Path(path).is_file() else {"settings": settings, "markets": {}}
    if kept["settings"] != settings:
        options.error(f"{path} was measured with other settings: {kept['settings']}")
    found: dict[str, Any] = kept["markets"]
    return found


def finish(figures: dict[str, Any], path: str) -> None:
    """Print the environment and, when a path is given, write the figures as JSON."""
    print("  ".join(f"{name} {value}" for name, value in figures["environment"].items()))
    if path:
        Path(path).write_text(json.dumps(figures, indent=2) + "\n")
