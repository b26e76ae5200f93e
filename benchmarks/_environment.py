"""What a figure was measured on: printed under every table. Imported first by every script of this folder."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

# A script is run by its path, so modules are looked for in its folder, where `features.py` hides the package of that
# name. From here on everything is found from the root.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry) != ROOT / "benchmarks")]


def environment(*packages: str) -> dict[str, Any]:
    """Name the processor, the cores and the versions of Python and of the packages."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def finish(figures: dict[str, Any], path: str) -> None:
    """Print the environment and, when a path is given, write the figures as JSON."""
    print("  ".join(f"{name} {value}" for name, value in figures["environment"].items()))
    if path:
        Path(path).write_text(json.dumps(figures, indent=2) + "\n")
