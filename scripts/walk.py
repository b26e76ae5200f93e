"""Print the files that a raw row passes on its way to a gradient, in the order in which it enters each.

    python scripts/walk.py     # the first list of docs/architecture.md, "Two walks through the code"

A file counts when one of its functions runs, on any thread; code that runs at an import does not count. The walk goes
through the steps of the training pipeline and ends at the first gradient.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("mtorl", "features", "serving", "components", "pipelines", "monitoring", "cli")
sys.path.insert(0, str(ROOT))

entered: dict[str, None] = {}
"""Files of ours in the order of their first call, as paths from the root."""


def trace(frame: FrameType, event: str, _: Any) -> None:
    """A profile function that notes each file of ours when one of its functions is called."""
    code = frame.f_code
    is_function = code.co_flags & inspect.CO_OPTIMIZED and code.co_name not in ("<lambda>", "__post_init__")
    if event == "call" and is_function and code.co_filename.startswith(f"{ROOT}/"):
        name = code.co_filename.removeprefix(f"{ROOT}/")
        if name.partition("/")[0] in ROOMS:
            entered.setdefault(name)


class _FirstGradient(Exception):
    """Raised in place of the first gradient: the walk is over."""


class _Artifact:
    """As much of a KFP artifact as the steps use."""

    def __init__(self, path: Path) -> None:
        self.path, self.metadata = str(path), dict[str, Any]()


def walk(raw: Path, scratch: Path) -> None:
    """Take a raw log through the steps."""
    from components.build_features.component import build_features
    from components.fingerprint.component import fingerprint
    from components.ingest.component import ingest
    from components.train_challenger.component import train_challenger

    log, windows, definitions = (_Artifact(scratch / name) for name in ("log", "windows", "definitions"))
    content = fingerprint.python_func(str(raw), "simulator", "")[0]
    quarantine = _Artifact(scratch / "quarantine.csv")
    ingest.python_func(str(raw), "simulator", "fail", 0, 0, content, "", "", 0, "", "", "", log, quarantine)
    build_features.python_func(log, "simulator", "", "", "", windows, definitions)
    with contextlib.suppress(_FirstGradient):
        train_challenger.python_func(windows, 1, 0, 0.5, "", "", "", "", _Artifact(scratch / "model"), None)


def main() -> None:
    """Print a file a line, and their number."""
    import threading

    import torch

    from mtorl.simulator.simulator import Simulator, SimulatorConfig

    def stop(*_: Any, **__: Any) -> None:
        raise _FirstGradient

    torch.Tensor.backward = stop  # type: ignore[method-assign, assignment]
    with tempfile.TemporaryDirectory() as name:
        raw = Path(name, "raw.csv")
        Simulator(SimulatorConfig(users=200, seed=1)).log().to_csv(raw, index=False)
        walk(raw, Path(name, "1"))  # imports everything
        threading.setprofile(trace)
        sys.setprofile(trace)
        walk(raw, Path(name, "2"))
        sys.setprofile(None)
    print(*entered, sep="\n")
    print(f"{len(entered)} files", file=sys.stderr)


if __name__ == "__main__":
    main()
