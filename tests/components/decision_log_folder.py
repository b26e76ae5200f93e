"""A small decision log of an experiment, as the router's export leaves it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd


def write_decision_log(folder: Path, contexts: list[dict[str, object]]) -> Path:
    """Write one exposure for each context, by turns to both arms; every fourth user of the challenger clicks."""
    decisions, outcomes = [], []
    for number, context in enumerate(contexts):
        time = pd.Timestamp("2025-03-01", tz="UTC") + pd.Timedelta(minutes=number)
        decisions.append(
            {
                "decision_id": f"d{number}",
                "user_id": f"u{number}",
                "experiment": "test",
                "arm": ("incumbent", "challenger")[number % 2],
                "assignment_probability": 0.5,
                "stage": "50%",
                "expose": True,
                "fallback_reason": None,
                "withdrawn": False,
                "override": False,
                "latency_seconds": 0.01,
                "context": json.dumps(context),
                "event_time": time.isoformat(),
            }
        )
        for kind, value in (("cost", 0.2), ("click", float(number % 8 == 1))):
            event = {"event_id": f"d{number}-{kind}", "decision_id": f"d{number}", "kind": kind, "value": value}
            outcomes.append({**event, "event_time": time.isoformat(), "received_time": time.isoformat()})
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(decisions).astype({"fallback_reason": "string"}).to_parquet(folder / "decisions.parquet")
    pd.DataFrame(outcomes).to_parquet(folder / "outcomes.parquet")
    return folder
