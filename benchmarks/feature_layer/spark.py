"""The same log through the builder on DuckDB and on Spark (one machine, all cores): equal content, and both times."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .builder import build
from .child import brief, run
from .log import generate
from .plan import Plan


def measure(plan: Plan, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Times and content digests of both engines."""
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
