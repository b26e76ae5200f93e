"""A decision log that a test writes record by record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from monitoring.decision_log import DecisionLog


class Log:
    """A decision log that is written row by row."""

    def __init__(self) -> None:
        self.decisions: list[dict[str, Any]] = []
        self.outcomes: list[dict[str, Any]] = []

    def decide(self, user: str, arm: str, **other: Any) -> str:
        minutes = len(self.decisions)
        row = {
            "decision_id": f"d{minutes}",
            "user_id": user,
            "experiment": "test",
            "arm": arm,
            "assignment_probability": 0.5,
            "stage": "50%",
            "expose": True,
            "fallback_reason": None,
            "withdrawn": False,
            "override": False,
            "latency_seconds": 0.01,
            "event_time": (pd.Timestamp("2025-03-01", tz="UTC") + pd.Timedelta(minutes=minutes)).isoformat(),
        }
        self.decisions.append(row | other)
        return str(row["decision_id"])

    def learn(self, decision: str, kind: str, value: float) -> None:
        event = {"event_id": f"e{len(self.outcomes)}", "event_time": self.decisions[-1]["event_time"]}
        self.outcomes.append({**event, "decision_id": decision, "kind": kind, "value": value})

    def write(self, folder: Path) -> DecisionLog:
        decisions, outcomes = folder / "decisions.parquet", folder / "outcomes.parquet"
        pd.DataFrame(self.decisions).astype({"fallback_reason": "string"}).to_parquet(decisions)
        columns = {
            "event_id": "string",
            "decision_id": "string",
            "kind": "string",
            "value": "float64",
            "event_time": "string",
            "received_time": "string",
        }
        pd.DataFrame(self.outcomes, columns=list(columns)).astype(columns).to_parquet(outcomes)
        return DecisionLog((decisions,), (outcomes,))
