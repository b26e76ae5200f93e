"""What a figure was measured on: printed under every table. Imported first by every script of this folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

# A script is run by its path, so modules are looked for in its folder, where `features.py` hides the package of that
# name. From here on everything is found from the root.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry) != ROOT / "benchmarks")]


from mtorl.runtime.hardware import environment  # noqa: E402  # not before its folder can be found

__all__ = ["ROOT", "environment", "finish"]


def finish(figures: dict[str, Any], path: str) -> None:
    """Print the environment and, when a path is given, write the figures as JSON."""
    print("  ".join(f"{name} {value}" for name, value in figures["environment"].items()))
    if path:
        Path(path).write_text(json.dumps(figures, indent=2) + "\n")
