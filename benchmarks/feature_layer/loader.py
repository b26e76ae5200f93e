"""The training loader on one thread: a windows folder from disk, and windows laid out from its flat steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks._process import clock, run

from .builder import build
from .log import generate
from .plan import Plan


def load(folder: str, windows: int) -> dict[str, Any]:
    """Open the folder, lay out the windows of touchpoints all over it, and encode them for the model."""
    import numpy as np

    from mtorl.window.encoder import Encoder
    from mtorl.window.table import WindowTable
    from mtorl.window.window import WindowBatch

    with clock() as reading:
        table = WindowTable.load(folder)
    rows = np.linspace(0, len(table.steps) - 1, windows, dtype=np.int64)
    with clock() as figures:
        batch = WindowBatch.from_steps(table.steps, rows, table.spec, targets=True)
    encoder = Encoder.fit(batch, table.spec)
    with clock() as encoding:
        encoder.encode(batch)
    return {
        **figures,
        "windows": windows,
        "tokens": int(batch.length_B.sum()),
        "load_seconds": reading["seconds"],
        "encode_seconds": encoding["seconds"],
    }


def measure(plan: Plan, folder: Path) -> dict[str, Any]:
    """Windows a second, and the time to open the folder."""
    log, windows = folder / "log.parquet", folder / "windows"
    made = run(generate, rows=plan.loader_rows, path=log)
    run(build, log=log, out=windows)
    one_thread = {"OMP_NUM_THREADS": "1"}  # of numpy, the only user of threads here
    return {"log": made, "loader": run(load, folder=windows, windows=plan.loader_windows, env=one_thread)}
