"""The sequence builder against two loops over users in pandas, and against the engine's own scan and sort of the file.

The loops make what a notebook would: for each user the last `STEPS` touchpoints as one padded array of numbers, the
state of a step from the touchpoint before it. Both are given their log as numbers (categories coded, users as
integers) and write nothing; the builder reads text and writes Parquet with a manifest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks._process import brief, clock, run

from .log import generate
from .plan import Plan

STEPS = 100


def build(log: str, out: str, engine: str = "duckdb") -> dict[str, Any]:
    """The project's builder, from the log to shards and manifest."""
    from features.engine import open_engine
    from features.sequences.builder import build
    from mtorl.log.dataset import DatasetSpec

    spec = DatasetSpec.load("simulator")
    with clock() as started, open_engine(engine) as opened, clock() as figures:
        build(opened, Path(log), spec, Path(out))
    files = Path(out).rglob("*.parquet")
    return {
        **figures,
        "start_seconds": started["seconds"] - figures["seconds"],
        "out_mib": round(sum(path.stat().st_size for path in files) / 2**20, 1),
        "manifest": _manifest(Path(out)),
    }


def scan_sort(log: str, out: str) -> dict[str, Any]:
    """The limit: the builder's engine, as it is set up, reads the file, sorts it and writes it as the builder does."""
    from features.engine import open_engine

    with open_engine("duckdb") as engine, clock() as figures:
        engine.connection.con.execute(
            f"COPY (SELECT * FROM '{log}' ORDER BY user_id, timestamp) TO '{out}' (FORMAT parquet, COMPRESSION zstd)"
        )
    return {**figures, "out_mib": round(Path(out).stat().st_size / 2**20, 1)}


def loop(log: str, sample: int, search: bool) -> dict[str, Any]:
    """The windows of some users as one padded array each; the time is as if all users had taken as long.

    Args:
        log: Parquet file.
        sample: Users run at most.
        search: Search the whole log four times for each user, as in the notebooks; else loop over `DataFrame.groupby`.
    """
    with clock() as reading:
        frame, columns = _numbers(log)
        groups = frame.groupby("user_id", sort=False)
        users = frame["user_id"].unique()
    done = min(sample, len(users))
    with clock() as looping:
        if search:
            for user in users[:: max(len(users) // done, 1)][:done]:
                rows, states, actions, rewards = (frame[frame["user_id"] == user] for _ in range(4))
                padded_arrays(len(rows), states[columns], actions["channel"], rewards["click"])
        else:
            for _, (_, rows) in zip(range(done), groups, strict=False):
                padded_arrays(len(rows), rows[columns], rows["channel"], rows["click"])
    found = {kind: reading[kind] + looping[kind] * len(users) / done for kind in ("seconds", "cpu_seconds")}
    return {**found, "users_run": done, "extrapolated": done < len(users)}


def _numbers(log: str) -> tuple[Any, list[str]]:
    """The log in time order as a frame of numbers (float64, users int64), and the columns of a state."""
    import pyarrow.parquet as pq

    texts = [field.name for field in pq.read_schema(log) if str(field.type) == "string"]
    frame = pq.read_table(log, read_dictionary=texts).to_pandas()
    for name in texts:
        frame[name] = frame[name].cat.codes
    frame["timestamp"] = frame["timestamp"].astype("int64")
    frame = frame.sort_values("timestamp").astype("float64").astype({"user_id": "int64"})
    return frame, [name for name in frame.columns if name not in ("user_id", "timestamp")]


def padded_arrays(length: int, states: Any, actions: Any, rewards: Any) -> tuple[Any, Any, Any]:
    """One user's states [STEPS, columns], actions and rewards [STEPS]; a step's state is the touchpoint before it."""
    import numpy as np

    padded = np.zeros((STEPS, states.shape[1])), np.zeros(STEPS), np.zeros(STEPS)
    n = min(length - 1, STEPS)
    if n > 0:
        padded[0][:n] = states.to_numpy()[-n - 1 : -1]
        padded[1][:n] = actions.to_numpy()[-n:]
        padded[2][:n] = rewards.to_numpy()[-n:]
    return padded


def _manifest(folder: Path) -> dict[str, Any]:
    written = json.loads((folder / "manifest.json").read_text())
    written["shards"] = len(written["shards"])
    return {key: value for key, value in written.items() if isinstance(value, int | float | str)}


def median(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The run of median time, with the highest peak and the times of all; a run that failed stands for all."""
    for figures in runs:
        if "seconds" not in figures:
            return figures
    chosen = sorted(runs, key=lambda figures: figures["seconds"])[(len(runs) - 1) // 2]
    times = [round(figures["seconds"], 3) for figures in runs]
    return {**chosen, "peak_mib": max(figures["peak_mib"] for figures in runs), "runs_seconds": times}


def measure(plan: Plan, folder: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """One entry for each size of the plan, and one for a raw log; the builder and the limit take turns.

    Args:
        plan: How much.
        folder: Scratch space.
        say: Takes a line about each thing that is done.
    """
    entries = []
    for rows, turns, raw in [*((*size, False) for size in plan.turns), (plan.raw_rows, 1, True)]:
        log = folder / "log.parquet"
        entry: dict[str, Any] = {"rows": rows, "raw": raw, "log": run(generate, rows=rows, path=log, raw=raw)}
        entries.append(entry)
        say(f"{rows:,} rows: log: {brief(entry['log'])}")
        if "error" in entry["log"]:
            continue
        built, limit = [], []
        for turn in range(1, turns + 1):
            limit.append(run(scan_sort, log=log, out=folder / "sorted.parquet"))
            (folder / "sorted.parquet").unlink(missing_ok=True)
            say(f"{rows:,} rows: scan and sort, {turn} of {turns}: {brief(limit[-1])}")
            built.append(run(build, log=log, out=folder / "windows"))
            shutil.rmtree(folder / "windows", ignore_errors=True)
            say(f"{rows:,} rows: builder, {turn} of {turns}: {brief(built[-1])}")
        entry["builder"], entry["scan_sort"] = median(built), median(limit)
        if rows <= plan.loop_rows and not raw:
            for name, users, search in zip(("per_user", "groupby"), plan.loop_users, (True, False), strict=True):
                entry[name] = run(loop, log=log, sample=users, search=search, limit_s=plan.loop_limit_s)
                say(f"{rows:,} rows: {name}: {brief(entry[name])}")
        log.unlink()
    return entries


def measure_spark(plan: Plan, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """One log on DuckDB and on Spark (one machine, all cores): both times, and whether the content is equal."""
    log = folder / "log.parquet"
    figures: dict[str, Any] = {"log": run(generate, rows=plan.spark_rows, path=log)}
    for engine in ("duckdb", "spark"):
        # Spark's temporary files stay in the scratch folder too.
        figures[engine] = run(build, log=log, out=folder / engine, engine=engine, env={"SPARK_LOCAL_DIRS": str(folder)})
        say(f"{plan.spark_rows:,} rows: {engine}: {brief(figures[engine])}")
        shutil.rmtree(folder / engine, ignore_errors=True)
    digests = [figures[engine].get("manifest", {}).get("content_sha256") for engine in ("duckdb", "spark")]
    figures["equal"] = None not in digests and digests[0] == digests[1]
    if None not in digests and not figures["equal"]:
        figures["error"] = f"content differs: {digests[0][:12]} on DuckDB, {digests[1][:12]} on Spark"
    return figures
