"""What a figure was measured on: printed under every table. Imported first by every script of this folder."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

# A script is run by its path, so modules are looked for in its folder first, where `features.py` hides the package of
# that name. From here on the folder comes last; the processes that a script starts find this module there.
_FOLDER = ROOT / "benchmarks"
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry) != _FOLDER), str(_FOLDER)]

from mtorl.runtime.hardware import environment  # noqa: E402  # not before its folder can be found

__all__ = ["ROOT", "environment", "finish", "simulation_options"]


def simulation_options(manual: str | None, measures: Sequence[str] = ()) -> argparse.Namespace:
    """The command line of a script that simulates: json, quick, seed and, if it can measure a part anew, only."""
    parser = argparse.ArgumentParser(description=manual, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures there")
    parser.add_argument("--quick", action="store_true", help="few runs")
    parser.add_argument("--seed", type=int, default=7)
    if measures:
        parser.add_argument("--only", choices=measures, help="measure this anew; the rest is read from --json")
    options = parser.parse_args()
    if measures and options.only and (options.quick or not options.json):
        parser.error("--only renews a part of the figures in --json, at full size")
    return options


def finish(figures: dict[str, Any], path: str) -> None:
    """Print the environment and, when a path is given, write the figures as JSON."""
    print("  ".join(f"{name} {value}" for name, value in figures["environment"].items()))
    if path:
        Path(path).write_text(json.dumps(figures, indent=2) + "\n")
