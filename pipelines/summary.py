"""summary.json: the run in figures, for people who compare runs and for machines. Documented in docs/summary.md."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from mtorl.evaluation.gate import gate
from mtorl.log.dataset import DatasetSpec
from pipelines.local import StepResult


def summarise(
    run: Path,
    spec: DatasetSpec,
    config: Any,
    steps: dict[str, StepResult],
    latencies: list[float],
    errors: list[str],
    window: tuple[str, str],
    alerts: dict[str, int],
    truth: dict[str, float] | None,
    seconds: float,
) -> dict[str, Any]:
    """Collect the figures of a run from what its steps left behind."""
    evaluation = json.loads((run / "evaluation.json").read_text())
    challenger = json.loads((run / "artifacts" / "challenger" / "metrics.json").read_text())
    ingested = json.loads((run / "data" / "ingest.json").read_text())
    verdict = json.loads(_artifact(run / "pipeline-monitor-clean", "verdict"))
    drift = {name: _drift(run, name) for name in ("clean", "shifted")}
    return {
        "schema_version": 1,
        "dataset": spec.name,
        "source": config.data or "built-in simulator",
        "outcomes": "simulated" if truth else "rejection-sampling replay of held-out users",
        "rows": ingested["rows"],
        "users": ingested["users"],
        "windows": steps["build-features"].values["Output"],
        "quarantined": {"rows": ingested["quarantined"], "faults": ingested["faults"]},
        "train": {key: challenger[key] for key in ("seconds", "best_epoch", "epochs")},
        "offline": evaluation["challenger"],
        "offline_incumbent": evaluation["incumbent"],
        "budget_curve": evaluation["budget_curve"],
        "gate": {
            "decision": steps["gate"].values["Output"],
            "reason": gate(evaluation["value"], config.min_lift)[1],
            "lower_bound": evaluation["value"]["difference_ci"][0],
            "min_lift": config.min_lift,
            **evaluation["value"],
        },
        "serving": _serving(run, latencies, errors, window),
        "budget": _budget(run),
        "experiment": {**verdict, **(truth or {"true_lift": None})},
        "drift": {
            "clean_alerts": alerts["clean"],
            "shifted_alerts": alerts["shifted"],
            "webhook_received": alerts["shifted"] > 0,
            **drift,
        },
        "artifacts": {
            "incumbent": "artifacts/incumbent",
            "challenger": "artifacts/challenger",
            "decision_log": "decision_log",
            "report": "report.html",
        },
        "seconds": round(seconds, 1),
    }


def write_summary(run: Path, summary: dict[str, Any]) -> None:
    """Write summary.json in one step, so that nobody reads half of it."""
    temporary = run / f".summary.{os.getpid()}"
    temporary.write_text(json.dumps(summary, indent=2, default=float) + "\n")
    temporary.replace(run / "summary.json")


def _artifact(root: Path, step: str) -> str:
    (found,) = root.glob(f"*/{step}/executor_output.json")
    uri = json.loads(found.read_text())["artifacts"]["result"]["artifacts"][0]["uri"]
    return Path(uri).read_text()


def _drift(run: Path, name: str) -> dict[str, Any]:
    """drift.json of a window, with paths relative to the run."""
    found: dict[str, Any] = json.loads((run / "drift" / name / "drift.json").read_text())
    for key in ("html", "json"):
        found[key] = f"drift/{name}/drift.{key}" if found[key] else None
    return found


def _serving(run: Path, latencies: list[float], errors: list[str], window: tuple[str, str]) -> dict[str, Any]:
    """Decisions, fallbacks and latency of the experiment's traffic; errors of all traffic."""
    path = run / "decision_log" / "decisions.parquet"
    found = duckdb.execute(
        "select count(*) filter (fallback_reason is not null) from read_parquet(?) "
        "where cast(event_time as timestamptz) between cast(? as timestamptz) and cast(? as timestamptz)",
        [str(path), *window],
    ).fetchone()
    milliseconds = 1000 * np.array(latencies)
    return {
        "decisions": len(latencies),
        "errors": len(errors),
        "fallbacks": int(found[0]) if found else 0,
        "p50_ms": round(float(np.quantile(milliseconds, 0.5)), 2),
        "p99_ms": round(float(np.quantile(milliseconds, 0.99)), 2),
    }


def _budget(run: Path) -> dict[str, dict[str, float]]:
    from serving.ledger import SqliteLedger

    arms: dict[str, dict[str, float]] = {}
    for balance in SqliteLedger(run / "serving" / "ledger.sqlite").balances():
        arm = arms.setdefault(balance.arm, dict.fromkeys(("limit", "spent", "reserved", "excess", "overspent"), 0.0))
        arm["limit"] += balance.limit
        arm["spent"] += balance.spent
        arm["reserved"] += balance.reserved
        arm["excess"] += balance.excess
        arm["overspent"] += max(0.0, balance.spent + balance.excess - balance.limit)
    return arms
