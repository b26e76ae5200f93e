"""What a verdict costs: `mtorl experiment verdict` on logs of up to ten million decisions.

    python benchmarks/verdict.py --json benchmarks/results/verdict.json    # ten minutes, 10 GB in TMPDIR
    python benchmarks/verdict.py --quick                                   # the smallest log

A ramp of a fortnight, 1 % -> 5 % -> 25 % -> 50 %, with a budget for each day: two of its changes come in mid-day, so
that the verdict looks at both, with and without these days. Each decision has a cost, one in ten a click. Each verdict
is a process of its own: its CPU seconds and peak memory are the operating system's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from _environment import environment, finish

from benchmarks._process import measured
from benchmarks.experiment_runs.table import verdict_table

SIZES = (
    (100_000, 30_000),
    (1_000_000, 300_000),
    (2_000_000, 600_000),
    (5_000_000, 1_500_000),
    (10_000_000, 1_000_000),
    (10_000_000, 3_000_000),
)
DAYS = 14
RAMP = {"1%": 2.5, "5%": 4.5, "25%": 7.5, "50%": 14.0}  # until which day
EXPERIMENT: dict[str, Any] = {
    "name": "benchmark",
    "enabled": True,
    "unit": "user_id",
    "alpha": 0.05,
    "salt": "s",
    "layer": "l",
    "stage": "50%",
    "arms": [{"name": n, "weight": 0.5, "endpoint": f"http://{n}"} for n in ("incumbent", "challenger")],
    "default_channel": "search",
    "budgets": [{"campaign": "*", "channel": "*", "amount": 1000.0, "period": "day"}],
    "metrics": {
        "primary": "click_per_decision",
        "guardrails": [{"name": "cost_per_decision", "direction": "down", "margin": 0.05}],
        "outcome_hours": 24,
    },
    "min_runtime_hours": 168,
    "owner": "benchmarks",
}


def write_log(folder: Path, decisions: int, users: int) -> None:
    """A decision log, with those fields of its records that a verdict reads and some others, 29 in all."""
    import duckdb
    import pandas as pd

    from mtorl.experiment.experiment import Experiment

    experiment = Experiment.from_dict(EXPERIMENT)
    stages = pd.DataFrame(
        [
            {"stage": stage, "until": until, "share": shares["challenger"], "shares": json.dumps(shares)}
            for stage, until in RAMP.items()
            for shares in (experiment.replace(stage=stage).shares(),)
        ]
    )
    folder.mkdir()
    with duckdb.connect(config={"memory_limit": "2GB", "threads": 2, "temp_directory": str(folder / "tmp")}) as db:
        db.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false")
        db.register("stages", stages)
        db.execute(
            f"""COPY (
                WITH visit AS (
                    SELECT range * {DAYS / decisions!r} AS day, 'user-' || hash(range) % {users} AS user_id,
                           md5(range::VARCHAR) AS decision_id FROM range({decisions})),
                assigned AS (
                    SELECT *, hash(user_id) / 18446744073709551616.0 < share AS challenged
                    FROM visit ASOF JOIN stages ON visit.day < stages.until)
                SELECT decision_id, md5('request' || decision_id) AS request_id, user_id, stage, shares,
                       if(challenged, 'challenger', 'incumbent') AS arm,
                       if(challenged, share, 1 - share) AS assignment_probability, 'c' AS campaign_id,
                       '{experiment.name}' AS experiment, '{experiment.salt}' AS salt, '{experiment.layer}' AS layer,
                       'v' AS experiment_version, true AS expose, NULL::VARCHAR AS fallback_reason,
                       false AS withdrawn, 0.01 AS latency_seconds, md5(arm) AS model_digest, 'search' AS channel,
                       0.25 AS propensity, 0.1 AS expected_reward, 0.3 AS expected_cost, false AS budget_exhausted,
                       'r-' || decision_id AS reservation_id, left(md5(user_id), 16) AS unit_hash,
                       3 AS schema_version, 1.5 AS price, 0.4 AS reserved,
                       (TIMESTAMPTZ '2026-01-01 00:00+00' + to_microseconds((day * 86400e6)::BIGINT))::VARCHAR
                       AS request_time,
                       TIMESTAMPTZ '2026-01-01 00:00+00' + to_microseconds((day * 86400e6)::BIGINT) AS event_time
                FROM assigned) TO '{folder / "decisions.parquet"}'"""
        )
        db.execute(
            f"""COPY (
                SELECT md5(kind || decision_id) AS event_id, decision_id, kind, if(kind = 'cost', 0.3, 1.0) AS value,
                       event_time, event_time AS received_time
                FROM '{folder / "decisions.parquet"}', (SELECT unnest(['cost', 'click']) AS kind)
                WHERE kind = 'cost' OR hash(decision_id) % 10 = 0) TO '{folder / "outcomes.parquet"}'"""
        )


def judge(log: Path, experiment: Path, out: Path) -> dict[str, Any]:
    """The console command, as people type it."""
    command = [sys.executable, "-m", "cli.main", "experiment", "verdict", str(log), "--dataset", "simulator"]
    taken = measured([*command, "--experiment", str(experiment), "--json"], out=out)
    if "changed_period" not in json.loads(out.read_text())["left_out"]:
        raise SystemExit("no day was left out, so the verdict has not looked twice")
    return taken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default="", metavar="FILE", help="also write the figures there")
    parser.add_argument("--quick", action="store_true", help="the smallest log alone")
    args = parser.parse_args()
    runs = []
    for decisions, users in SIZES[: 1 if args.quick else None]:
        with tempfile.TemporaryDirectory(prefix="verdict-") as scratch:
            folder = Path(scratch)
            (folder / "experiment.yaml").write_text(json.dumps(EXPERIMENT))
            # In another process: a child's peak memory is never below that of the process that has started it.
            with ProcessPoolExecutor(1, mp_context=get_context("fork")) as processes:
                processes.submit(write_log, folder / "log", decisions, users).result()
            found = judge(folder / "log", folder / "experiment.yaml", folder / "verdict.json")
        runs.append({"decisions": decisions, "users": users, **found})
        print(f"{decisions:,} decisions done", flush=True)
    figures = {"environment": environment("duckdb", "pandas"), "runs": runs}
    print(verdict_table(figures))
    finish(figures, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
