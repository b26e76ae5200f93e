"""What a drift check costs: `mtorl drift` on a million decisions of forty columns, as its CronJob runs it.

    python benchmarks/drift_job.py --json benchmarks/results/drift_job.json    # ten minutes, 300 MB in TMPDIR
    python benchmarks/drift_job.py --quick                                     # fewer decisions

Each check is a process of its own: CPU seconds and peak memory are the operating system's. The same check is run with
the thresholds that training has left in the artifact, and without them, when it calibrates for its period; the artifact
is otherwise the same. What measuring the thresholds adds to a training is in the last line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from _environment import environment, finish

from benchmarks._process import measured
from benchmarks.drift_rates.table import job_table

COLUMNS = 40
ROWS, QUICK_ROWS = 1_000_000, 50_000
ROWS_OF_A_USER = 10
TRAINED, TOUCHPOINTS = 8_000, 12
REPEATS = 3


def contexts(rows: int, seed: int) -> Any:
    """Half of the columns numeric, half categorical, all without drift."""
    import numpy as np
    import pandas as pd

    rng, half = np.random.default_rng(seed), COLUMNS // 2
    numbers = {f"number_{i}": np.round(rng.normal(size=rows), 4) for i in range(half)}
    return pd.DataFrame(numbers | {f"category_{i}": rng.choice(list("abcdefgh"), rows) for i in range(half)})


def write_log(folder: Path, rows: int) -> None:
    """A decision log, with those fields of its records that the check reads."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    writer: Any = None
    for part in range(0, rows, QUICK_ROWS):
        users = np.random.default_rng(part).integers(0, rows // ROWS_OF_A_USER, QUICK_ROWS)
        table = pa.table(
            {
                "decision_id": [f"{part + i:032x}" for i in range(QUICK_ROWS)],
                "user_id": [f"u{user}" for user in users],
                "withdrawn": [False] * QUICK_ROWS,
                "fallback_reason": pa.nulls(QUICK_ROWS, pa.string()),
                "context": [json.dumps(row) for row in contexts(QUICK_ROWS, part).to_dict("records")],
                "event_time": pa.array([1_760_000_000_000_000] * QUICK_ROWS, pa.timestamp("us", tz="UTC")),
            }
        )
        writer = writer or pq.ParquetWriter(folder / "decisions.parquet", table.schema)
        writer.write_table(table)
    writer.close()


def train(folder: Path) -> dict[str, float]:
    """Fit a policy on windows with these columns: two artifacts that differ in the thresholds alone."""
    import hashlib

    import numpy as np
    import pandas as pd

    from mtorl.artifact.saving import save
    from mtorl.baselines import channel_frequency
    from mtorl.fitting.training_summary import TrainingSummary
    from mtorl.log.dataset import Column, DatasetSpec
    from mtorl.window.loader import tiles
    from mtorl.window.table import SCHEMA_VERSION, shards

    rows = contexts(TRAINED * TOUCHPOINTS, 1)
    kinds = {name: "categorical" if name.startswith("c") else "numeric" for name in rows}
    step = np.tile(np.arange(TOUCHPOINTS), TRAINED)
    zeros = {name: 0.0 for name in ("cost", "revenue")} | {name: 0 for name in ("click", "conversion")}
    steps = rows.assign(
        user_id=np.repeat([f"t{i}" for i in range(TRAINED)], TOUCHPOINTS),
        timestamp=pd.Timestamp("2026-01-01", tz="UTC").as_unit("us") + pd.to_timedelta(step, unit="D").as_unit("us"),
        step=step.astype("int32"),
        channel="search",
        propensity=1.0,
        **zeros,
    )
    windows = folder / "windows"
    windows.mkdir()
    steps.to_parquet(windows / "steps.parquet", index=False)
    sha256 = hashlib.sha256((windows / "steps.parquet").read_bytes()).hexdigest()
    shard = {"file": "steps.parquet", "rows": len(steps), "users": TRAINED, "sha256": sha256}
    manifest = {"schema_version": SCHEMA_VERSION, "rows": len(steps), "log_fingerprint": "", "shards": [shard]}
    (windows / "manifest.json").write_text(json.dumps(manifest))
    columns = tuple(Column(name=name, kind=kind) for name, kind in kinds.items())  # type: ignore[arg-type]
    DatasetSpec.load("simulator").replace(context=columns, static=(), segment=None).save(windows / "dataset.yaml")

    summary = TrainingSummary.of(str(windows))
    network = channel_frequency.fit((tiles(str(windows), "train", file) for file in shards(windows)), summary.encoder)
    args = ("policy", "channel-frequency", network, channel_frequency.POLICY, {})
    cpu = time.process_time()
    thresholds = summary.drift_thresholds()
    cpu = time.process_time() - cpu
    save(folder / "kept", summary.policy(*args, thresholds))
    save(folder / "calibrated", summary.policy(*args, None))
    return {"training_cpu_seconds": cpu, "reference_rows": float(len(summary.reference))}


def check(artifact: Path, log: Path, out: Path) -> dict[str, float]:
    """The console command, as the CronJob starts it."""
    command = [sys.executable, "-m", "cli.main", "drift", f"--decision-log={log}", f"--artifact={artifact}"]
    taken = measured([*command, f"--out={out}"], expected=(0, 3))
    return {name: taken[name] for name in ("cpu_seconds", "peak_mib")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default="", metavar="FILE", help="also write the figures there")
    parser.add_argument("--quick", action="store_true", help="fewer decisions, one check each")
    args = parser.parse_args()
    rows, repeats = (QUICK_ROWS, 1) if args.quick else (ROWS, REPEATS)
    with tempfile.TemporaryDirectory(prefix="drift-job-") as scratch:
        folder = Path(scratch)
        # In another process: a child's peak memory is never below that of the process that has started it.
        with ProcessPoolExecutor(1, mp_context=get_context("fork")) as processes:
            processes.submit(write_log, folder / "log", rows).result()
            trained = processes.submit(train, folder).result()
        runs: dict[str, list[dict[str, float]]] = {"kept": [], "calibrated": []}
        for _ in range(repeats):  # by turns: whatever else the machine does befalls both
            for name, found in runs.items():
                found.append(check(folder / name, folder / "log", folder / "out"))
    figures = {"environment": environment("duckdb"), "rows": rows, "columns": COLUMNS, "runs": runs, **trained}
    print(job_table(figures))
    finish(figures, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
