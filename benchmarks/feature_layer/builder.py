"""Measures the sequence builder, and for comparison how long DuckDB needs just to sort the same file."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._process import clock, run

from .log import Plan, generate


def build(log: str, out: str) -> dict[str, Any]:
    from features.engine import open_engine
    from features.sequences.builder import build
    from mtorl.log.dataset import DatasetSpec

    spec = DatasetSpec.load("simulator")
    with open_engine("duckdb") as opened, clock() as figures:
        build(opened, Path(log), spec, Path(out))
    return dict(figures)


def scan_sort(log: str, out: str) -> dict[str, Any]:
    """Measure how long DuckDB needs to read, sort and write a log, which every builder must do."""
    from features.engine import open_engine

    with open_engine("duckdb") as engine, clock() as figures:
        engine.connection.con.execute(
            f"COPY (SELECT * FROM '{log}' ORDER BY user_id, timestamp) TO '{out}' (FORMAT parquet, COMPRESSION zstd)"
        )
    return dict(figures)


def median(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the run with the median time, but with the highest peak memory of all runs."""
    chosen = sorted(runs, key=lambda figures: figures["seconds"])[(len(runs) - 1) // 2]
    return {**chosen, "peak_mib": max(figures["peak_mib"] for figures in runs)}


def measure(plan: Plan, folder: Path) -> list[dict[str, Any]]:
    """Measure the sequence builder on logs of several sizes, and on a raw log.

    The functions `build` and `scan_sort` run in turn, so that other programs slow down both equally.
    """
    entries = []
    for rows, turns, raw in [*((*size, False) for size in plan.turns), (plan.raw_rows, 1, True)]:
        log = folder / "log.parquet"
        entry: dict[str, Any] = {"rows": rows, "raw": raw, "log": run(generate, rows=rows, path=log, raw=raw)}
        built, limit = [], []
        for _ in range(turns):
            limit.append(run(scan_sort, log=log, out=folder / "sorted.parquet"))
            built.append(run(build, log=log, out=folder / "windows"))
            shutil.rmtree(folder / "windows")
        entries.append(entry | {"builder": median(built), "scan_sort": median(limit)})
    return entries
