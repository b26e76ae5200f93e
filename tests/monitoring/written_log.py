import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from monitoring.decision_log import DecisionLog
from mtorl.log.lake import Lake
from tests.lakes import upload

BEGIN = pd.Timestamp("2025-03-01", tz="UTC")


class Log:
    """The records of a log. Decisions are a minute apart; an outcome has the newest decision's time."""

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
            "event_time": (BEGIN + pd.Timedelta(minutes=minutes)).isoformat(),
        }
        self.decisions.append(row | other)
        return str(row["decision_id"])

    def learn(self, decision: str, kind: str, value: float, **other: Any) -> None:
        event = {"event_id": f"e{len(self.outcomes)}", "event_time": self.decisions[-1]["event_time"]}
        self.outcomes.append({**event, "decision_id": decision, "kind": kind, "value": value, **other})

    def write(self, folder: Path) -> DecisionLog:
        shutil.rmtree(folder / "arrived", ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        return DecisionLog.of(self.add_to(folder))

    def add_to(self, lake: Lake | Path) -> Lake:
        outcomes = pd.DataFrame(self.outcomes).astype({"value": "float64"} if self.outcomes else {})
        return upload(lake, {"decision": pd.DataFrame(self.decisions).astype(object), "outcome": outcomes})


def write_decision_log(folder: Path, contexts: list[dict[str, object]], times: Sequence[str] = (), **same: Any) -> Path:
    """Write one exposure per context. The arms alternate, and every fourth user of the challenger clicks.

    `times` are the times of the decisions; by default, they are a minute apart. `same` are fields that all decisions
    share.
    """
    log = Log()
    for number, context in enumerate(contexts):
        arm, at = ("incumbent", "challenger")[number % 2], {"event_time": times[number]} if times else {}
        decision = log.decide(f"u{number}", arm, context=json.dumps(context), **same, **at)
        for kind, value in (("cost", 0.2), ("click", float(number % 8 == 1))):
            log.learn(decision, kind, value, received_time=log.decisions[-1]["event_time"])
    log.write(folder)
    return folder
